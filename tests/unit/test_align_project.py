"""Alignment and projection: what the method promises, on a small random ADM."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusers import UNet2DModel  # noqa: E402

from diffadapt.core.errors import DataError, ItemError, RecipeError  # noqa: E402
from diffadapt.diffusion.aligners.config import (
    SCALE_PER_IMAGE,
    AlignConfig,
    dda_published,
    diffpure,
)  # noqa: E402
from diffadapt.diffusion.guidance import GuidedSteps, Trace, guided_loop, structural_distance  # noqa: E402
from diffadapt.diffusion.lowpass import LowPass  # noqa: E402
from diffadapt.diffusion.network import UnconditionalNetwork  # noqa: E402
from diffadapt.diffusion.noise import ItemNoise  # noqa: E402
from diffadapt.diffusion.projector import NonFiniteImages, Projector, to_network, to_uint8  # noqa: E402  # noqa: E402
from diffadapt.diffusion.schedule import Schedule  # noqa: E402
from diffadapt.models.importers.adm import adm_from_original, read_checkpoint  # noqa: E402

TINY = Path(__file__).parents[1] / "golden" / "sda" / "adm_tiny_weights.safetensors"
CONFIG = AlignConfig(respacing=20, start=5, batch_size=4)
SEEDS = [11, 22, 33, 44]


@pytest.fixture(scope="module")
def network() -> UnconditionalNetwork:
    return UnconditionalNetwork(adm_from_original(*read_checkpoint(TINY)))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Four smooth, different images in [-1, 1]."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    phi = LowPass(4)
    return structural_distance(phi(to_network(a)) - phi(b), "image")


def test_guidance_holds_the_structure_of_each_image(network, images):
    guided = Projector(network, CONFIG).project(images, SEEDS)
    unguided = Projector(network, replace(CONFIG, guidance="none")).project(images, SEEDS)
    assert guided.dtype == torch.uint8 and guided.shape == images.shape
    assert (distance(guided, images) < 0.9 * distance(unguided, images)).all()


def test_stronger_guidance_holds_it_more(network, images):
    found = [
        distance(Projector(network, replace(CONFIG, scale=s)).project(images, SEEDS), images).mean()
        for s in (0.0, 2.0, 6.0)
    ]
    assert found[0] > found[1] > found[2]


def test_scale_zero_equals_no_guidance(network, images):
    zero = Projector(network, replace(CONFIG, scale=0.0)).project(images, SEEDS)
    none = Projector(network, replace(CONFIG, guidance="none")).project(images, SEEDS)
    assert (zero.int() - none.int()).abs().max() <= 1


def test_an_image_does_not_depend_on_its_batch_mates_or_their_order(network, images):
    projector = Projector(network, CONFIG)
    together = projector.project(images, SEEDS)
    backwards = projector.project(images.flip(0), SEEDS[::-1]).flip(0)
    assert (together.int() - backwards.int()).abs().max() <= 1
    alone = torch.cat([projector.project(images[i : i + 1], SEEDS[i : i + 1]) for i in range(4)])
    assert (together.int() - alone.int()).abs().max() <= 1
    others = projector.project(torch.cat([images[:1], -images[1:]]), SEEDS)
    assert (together[0].int() - others[0].int()).abs().max() <= 1
    assert (together[1].int() - others[1].int()).abs().max() > 10


def test_the_batch_size_changes_at_most_one_level(network, images):
    whole = Projector(network, CONFIG).project(images, SEEDS)
    pieces = Projector(network, replace(CONFIG, batch_size=3)).project(images, SEEDS)
    assert (whole.int() - pieces.int()).abs().max() <= 1


def test_the_coupled_norm_depends_on_batch_mates(network, images):
    config = replace(CONFIG, guidance="dda-batch", scale=6.0)
    together = Projector(network, replace(config, coupled_batch=4)).project(images, SEEDS)
    alone = Projector(network, replace(config, coupled_batch=1)).project(images, SEEDS)
    assert (together.int() - alone.int()).abs().max() > 3
    single = Projector(network, replace(CONFIG, scale=6.0)).project(images, SEEDS)
    assert (alone.int() - single.int()).abs().max() <= 1


def test_the_coupled_norm_weakens_each_images_pull_by_the_root_of_the_batch(network, images):
    """With one image repeated, one norm over B images pulls each exactly sqrt(B) less than its own norm."""
    schedule = Schedule.linear().respace(20)
    repeated, noise = images[:1].repeat(4, 1, 1, 1), torch.randn(1, 3, 32, 32).repeat(4, 1, 1, 1)
    traces = {}
    for norm in ("image", "batch"):
        traces[norm] = Trace()
        guided_loop(
            network.eps_model,
            repeated,
            noise,
            [noise] * 8,
            schedule,
            GuidedSteps(start=8, stop=7, scale=1.0, lowpass=LowPass(4), norm=norm),
            traces[norm],
        )
    assert torch.allclose(traces["image"].gradients[0], 2.0 * traces["batch"].gradients[0], atol=1e-5)
    assert traces["image"].norms[0].shape == (4,) and traces["batch"].norms[0].shape == ()


def test_seeds_decide_the_noise(network, images):
    projector = Projector(network, CONFIG)
    same = projector.project(images[:1].repeat(2, 1, 1, 1), [5, 5])
    assert (same[0].int() - same[1].int()).abs().max() <= 1
    other = projector.project(images[:1].repeat(2, 1, 1, 1), [5, 6])
    assert (other[0].int() - other[1].int()).abs().max() > 10


def test_the_gradient_is_the_derivative_of_the_distance(network, images):
    """Central differences through network and clamp, at the noisy image."""
    schedule, phi = Schedule.linear().respace(20), LowPass(4)
    noise, trace = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), Trace()
    last = GuidedSteps(start=8, stop=7, scale=0.0, lowpass=phi)
    guided_loop(network.eps_model, images[:1], noise, [noise], schedule, last, trace)
    direction = trace.gradients[0] / trace.gradients[0].norm()
    a = float(schedule.alphas_cumprod[8])
    values = []
    for sign in (1, -1):
        moved = Trace()
        shifted = noise + sign * 0.02 * direction / (1 - a) ** 0.5
        guided_loop(network.eps_model, images[:1], shifted, [noise], schedule, last, moved)
        values.append(float(moved.norms[0]))
    assert (values[0] - values[1]) / 0.04 == pytest.approx(float(trace.gradients[0].norm()), rel=0.02)


def test_guidance_acts_at_the_last_step_too(network, images):
    schedule = Schedule.linear().respace(20)
    noise, trace = torch.randn(1, 3, 32, 32), Trace()
    steps = GuidedSteps(start=3, scale=2.0, lowpass=LowPass(4))
    guided_loop(network.eps_model, images[:1], noise, [noise] * 3, schedule, steps, trace)
    pull = trace.pred_xstarts[-1] - trace.samples[-1]  # the last ancestral mean is x0 itself
    assert torch.allclose(pull, 2.0 * trace.gradients[-1], atol=1e-5)


def test_a_perfect_match_has_a_finite_gradient():
    network = lambda x, t: x * 0.0  # noqa: E731
    schedule = Schedule.from_scheduler_config({"prediction_type": "sample"}).respace(10)
    out = guided_loop(
        network,
        torch.zeros(1, 1, 8, 8),
        torch.zeros(1, 1, 8, 8),
        [torch.zeros(1, 1, 8, 8)] * 4,
        schedule,
        GuidedSteps(start=4, scale=6.0, lowpass=LowPass(2)),
    )
    assert torch.equal(out, torch.zeros(1, 1, 8, 8))


def test_weights_get_no_gradients_and_images_are_left_alone(network, images):
    before = images.clone()
    Projector(network, CONFIG).project(images, SEEDS)
    assert all(p.grad is None and not p.requires_grad for p in network.unet.parameters())
    assert torch.equal(images, before)


def test_the_start_noises_to_n_and_denoises_from_n_minus_one(images):
    seen = []

    class Spy(UnconditionalNetwork):
        def eps_model(self, x, t):
            seen.append((int(t[0]), x.detach().clone()))
            return super().eps_model(x, t)

    unet = adm_from_original(*read_checkpoint(TINY))
    for config, level in ((CONFIG, 5), (replace(CONFIG, noise_at_first_step=True), 4)):
        seen.clear()
        projector = Projector(Spy(unet), config)
        projector.project(images[:1], [9])
        assert [t for t, _ in seen] == projector.schedule.timesteps[4::-1].tolist()
        a = float(projector.schedule.alphas_cumprod[level])
        start = a**0.5 * images[:1] + (1 - a) ** 0.5 * ItemNoise([9], (3, 32, 32)).draw()
        assert torch.allclose(seen[0][1], start, atol=1e-6)


def test_uint8_images_are_taken_as_they_are(network, images):
    stored = to_uint8(images)
    assert torch.equal(
        Projector(network, CONFIG).project(stored, SEEDS),
        Projector(network, CONFIG).project(to_network(stored), SEEDS),
    )


def test_a_damaged_image_is_named_and_the_others_are_not(network, images):
    damaged = images.clone()
    damaged[2, 0, 0, 0] = float("nan")
    with pytest.raises(ItemError, match=r"\[2\]") as caught:
        Projector(network, replace(CONFIG, batch_size=2)).project(damaged, SEEDS)
    assert isinstance(caught.value, NonFiniteImages) and caught.value.positions == [2]


def test_bf16_stays_near_fp32(images):
    state, config = read_checkpoint(TINY)
    results = {}
    for precision in ("fp32", "bf16"):
        net = UnconditionalNetwork(adm_from_original(state, config), precision=precision)
        results[precision] = Projector(net, CONFIG).project(images[:2], SEEDS[:2]).float()
    difference = (results["fp32"] - results["bf16"]).abs().mean()
    assert 0 < difference < 8


def test_a_grey_network_on_folded_pixels_with_fixed_variance():
    """The embedded networks' form: space-to-depth, as many output as input channels, a small start level, D =
    2."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    projector = Projector(
        UnconditionalNetwork(unet, space_to_depth=2), AlignConfig(respacing=10, start=3, scale=2.0, factor=2)
    )
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    out = projector.project(images, [1, 2])
    assert out.shape == (2, 1, 16, 16)
    assert (out[1:].int() - projector.project(images[1:], [2]).int()).abs().max() <= 1


@pytest.mark.parametrize(
    "change", [{"start": 0}, {"start": 20}, {"factor": 0}, {"factor": 33}, {"respacing": 2000}]
)
def test_impossible_settings_are_refused(network, change):
    with pytest.raises(RecipeError):
        Projector(network, replace(CONFIG, **change))


def test_images_that_do_not_fit_are_refused(network):
    projector = Projector(network, CONFIG)
    with pytest.raises(DataError, match="channels"):
        projector.project(torch.zeros(1, 1, 32, 32), [1])
    with pytest.raises(DataError, match="multiples"):
        projector.project(torch.zeros(1, 3, 30, 30), [1])


def test_the_published_settings():
    assert SCALE_PER_IMAGE == pytest.approx(6 / 10**0.5)
    published = dda_published()
    assert (published.scale, published.coupled_batch, published.respacing, published.start) == (
        6.0,
        10,
        100,
        50,
    )
    pure = diffpure()
    assert (pure.start, pure.respacing, pure.noise_at_first_step, pure.guidance) == (150, 1000, True, "none")


def test_quantisation_is_the_published_one():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, 1 / 255])
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 128]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_network(levels)), levels)

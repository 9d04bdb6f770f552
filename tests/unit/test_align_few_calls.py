"""Aligners of a few network calls: diffusers' schedulers on one network, the published rule of MPGD, and
calls as they are told."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel  # noqa: E402

from diffadapt.core.errors import RecipeError  # noqa: E402
from diffadapt.core.identity import digest  # noqa: E402
from diffadapt.diffusion.aligners.base import ALIGNERS, Calls  # noqa: E402
from diffadapt.diffusion.aligners.config import AlignConfig, diffpure  # noqa: E402
from diffadapt.diffusion.lowpass import LowPass  # noqa: E402
from diffadapt.diffusion.network import UnconditionalNetwork  # noqa: E402
from diffadapt.diffusion.noise import ItemNoise  # noqa: E402
from diffadapt.diffusion.projector import Projector  # noqa: E402
from diffadapt.diffusion.samplers import sample  # noqa: E402
from diffadapt.stages.align import Align  # noqa: E402

CONFIG = AlignConfig(respacing=20, start=3, factor=2, batch_size=4)
SEEDS = [11, 22]


@pytest.fixture(scope="module")
def network() -> UnconditionalNetwork:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    return UnconditionalNetwork(unet)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def few(name: str, **settings) -> AlignConfig:
    """The configuration of an aligner with settings of its own."""
    config = replace(CONFIG, guidance=name)
    field = name.replace("-", "_")
    return replace(config, **{field: replace(getattr(config, field), **settings)})


def run(network, images, config: AlignConfig) -> torch.Tensor:
    return Projector(network, config).run(images, SEEDS)


def noise(images: torch.Tensor) -> torch.Tensor:
    return ItemNoise(SEEDS, tuple(images.shape[1:])).draw()


@pytest.mark.parametrize("clip", [False, True])
def test_ddim_from_a_level_agrees_with_diffusers(network, images, clip):
    theirs = DDIMScheduler(timestep_spacing="trailing", clip_sample=clip, steps_offset=0)
    theirs.set_timesteps(10)
    times = [int(t) for t in theirs.timesteps if t <= 399]
    assert times == [399, 299, 199, 99]
    x = y = theirs.add_noise(images, noise(images), torch.tensor([399]))
    with torch.no_grad():
        for t in times:
            y = theirs.step(network(y, torch.full((2,), t)), t, y, use_clipped_model_output=True).prev_sample
    schedule = network.schedule.descent(399, 4)
    assert schedule.timesteps.tolist() == times[::-1]
    assert float((sample(network, x, schedule, "ddim", clip=clip) - y).abs().max()) < 1e-5
    if clip:
        ours = run(network, images, few("few-step", level=399, calls=4, solver="ddim"))
        assert float((ours - y).abs().max()) < 1e-5


def test_dpm_solver_from_a_level_agrees_with_diffusers(network, images):
    theirs = DPMSolverMultistepScheduler(
        beta_schedule="linear", timestep_spacing="trailing", algorithm_type="dpmsolver++", solver_order=2,
        final_sigmas_type="zero",
    )  # fmt: skip
    theirs.set_timesteps(10)
    theirs.set_begin_index(6)
    x = y = DDIMScheduler().add_noise(images, noise(images), torch.tensor([399]))
    with torch.no_grad():
        for t in theirs.timesteps[6:]:
            y = theirs.step(network(y, torch.full((2,), int(t))), t, y).prev_sample
    ours = sample(network, x, network.schedule.descent(399, 4), "dpmsolver++", clip=False)
    assert float((ours - y).abs().max()) < 1e-5


def test_x0_guidance_is_the_published_rule(network, images):
    """The authors' loop (eta 0) written down again, one image at a time: their norm is the batch's."""
    weight, abar, phi = 0.7, network.schedule.alphas_cumprod, LowPass(2)
    found = run(network, images, few("x0", level=299, calls=3, weight=weight))
    for i in range(2):
        y, x_star = images[i : i + 1], noise(images)[i : i + 1]
        x = abar[299] ** 0.5 * y + (1 - abar[299]) ** 0.5 * x_star
        for t, to in ((299, abar[199]), (199, abar[99]), (99, 1.0)):
            with torch.no_grad():
                out = network(x, torch.tensor([t]))
            x0 = ((x - (1 - abar[t]) ** 0.5 * out) / abar[t] ** 0.5).clamp(-1, 1)
            eps = (x - abar[t] ** 0.5 * x0) / (1 - abar[t]) ** 0.5
            free = x0.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(torch.linalg.norm(phi(y) - phi(free)), free)
            x0 = x0 - gradient * weight / to**0.5
            x = to**0.5 * x0 + (1 - to) ** 0.5 * eps
        assert float((found[i : i + 1] - x).abs().max()) < 1e-5
    loose = run(network, images, few("x0", level=299, calls=3, weight=0.0))
    distance = [torch.linalg.norm(phi(v) - phi(images)) for v in (found, loose)]
    assert distance[0] < distance[1], "guidance holds the structure"


def test_one_step_is_the_networks_x0(network, images):
    abar = network.schedule.alphas_cumprod[150]
    x = abar**0.5 * images + (1 - abar) ** 0.5 * noise(images)
    with torch.no_grad():
        x0 = ((x - (1 - abar) ** 0.5 * network(x, torch.tensor([150, 150]))) / abar**0.5).clamp(-1, 1)
    assert float((run(network, images, few("one-step", level=150)) - x0).abs().max()) < 1e-5
    phi = LowPass(2)
    held = run(network, images, few("one-step", level=150, weight=0.5))
    assert float((held - (x0 + 0.5 * (phi(images) - phi(x0)))).abs().max()) < 1e-5


def test_diffpure_is_unguided_at_its_published_steps(network, images):
    short = few("diffpure", level=7)
    old = replace(diffpure(start=8), factor=2)
    assert torch.equal(run(network, images, short), run(network, images, old))
    assert AlignConfig(guidance="diffpure").cost == diffpure().cost == Calls(150)


@pytest.mark.parametrize("name", [n for n in ALIGNERS.names() if not ALIGNERS.load(n).needs_student])
def test_every_aligner_tells_the_calls_that_it_makes(network, images, name):
    config = replace(CONFIG, guidance=name)
    if config.chooses:
        config = config.at(40)
    if name == "diffpure":
        config = config.at(4)
    seen = []
    first = network.unet.conv_in
    hooks = (
        first.register_forward_hook(lambda *_: seen.append("forward")),
        first.register_full_backward_hook(lambda *_: seen.append("backward")),
    )
    try:
        Projector(network, config, classifier=lambda x: x.mean((2, 3)).repeat(1, 3)).run(images, SEEDS)
    finally:
        for hook in hooks:
            hook.remove()
    assert config.cost == Calls(seen.count("forward"), seen.count("backward"))
    assert config.cost.passes == seen.count("forward") + 2 * seen.count("backward")


def test_the_published_loop_costs_150_passes():
    assert AlignConfig(weights="x").cost.passes == 150
    assert few("one-step", level=150).cost.passes == 1


def test_what_an_aligner_does_not_read_forks_nothing():
    mine = few("one-step", level=150)
    other = replace(mine, respacing=50, start=7, scale=3.0, x0=replace(mine.x0, weight=9.0))
    assert digest(mine.identity()) == digest(other.identity())
    assert digest(mine.identity()) != digest(few("one-step", level=151).identity())
    assert "one_step" not in CONFIG.identity() and CONFIG.identity()["start"] == 3
    assert Align(mine).label().endswith("one-step-t150-1")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (few("x0", level=2, calls=4), "align.x0.calls is 4 but must be 1 to 3 at level 2"),
        (few("one-step"), "align.one-step.level is 'auto', but nothing chooses it here"),
        (replace(CONFIG, start=20), "align.start is 20 but must be 1 to 19 at respacing 20"),
    ],
)
def test_steps_that_do_not_fit_are_refused_while_planning(config, said):
    with pytest.raises(RecipeError, match=said):
        Align(replace(config, weights="embedded:digits-unet")).plan({"images": None})  # type: ignore[dict-item]


def test_a_level_that_was_not_chosen_cannot_be_run(network):
    with pytest.raises(RecipeError, match="only a recipe can choose"):
        Projector(network, few("one-step"))

"""Levels, sizes and the samplers of the transfer on closed-form networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.translation import edit_friendly
from diffadapt.diffusion.translation.config import DOMAINS, TransferConfig
from diffadapt.diffusion.translation.inversion import add_noise, decode, encode
from diffadapt.diffusion.translation.lcm import consistency_decode
from diffadapt.diffusion.translation.levels import ddim_timesteps, steps_and_guidance, transfer_levels
from diffadapt.diffusion.translation.sizes import generated_size

ABAR = Schedule.from_scheduler_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
).alphas_cumprod
LEVELS = transfer_levels(TransferConfig(), 0.9)


def noises(count: int, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 4, 8, generator=generator, dtype=dtype) for _ in range(count)]


def network(condition: float):
    """A nonlinear noise predictor of about the scale of a trained one."""

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        return 0.8 * math.sqrt(1.0 - ABAR[t]) * x + 0.2 * torch.sin(3 * x + t / 1000) + condition

    return predict


def test_the_authors_domains_take_the_published_numbers_of_steps():
    found = {
        name: len(transfer_levels(TransferConfig(), domain.strength).decode)
        for name, domain in DOMAINS.items()
    }
    assert found == {"night": 18, "snow": 13, "rain": 13, "fog": 12, "game": 12}
    assert ddim_timesteps(20) == tuple(range(1, 1000, 50))
    assert LEVELS.encode == 900 and LEVELS.decode[0] == 851 and LEVELS.decode[-1] == 1
    assert transfer_levels(TransferConfig(aligned=True), 0.9).encode == 851
    assert transfer_levels(TransferConfig(method="img2img"), 0.9).encode == 851


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_extremes_of_strength_stay_on_the_schedule(strength):
    for config in (
        TransferConfig(),
        TransferConfig(aligned=True),
        TransferConfig(steps=1000),
        TransferConfig(steps=30),
    ):
        levels = transfer_levels(config, strength)
        assert levels.decode[0] <= levels.encode <= 999 and min(levels.decode) >= 0
        assert list(levels.decode) == sorted(set(levels.decode), reverse=True)


def test_binary_fractions_lose_no_step():
    for steps in (10, 20, 50, 100):
        for whole in range(1, steps + 1):
            assert len(transfer_levels(TransferConfig(steps=steps), whole / steps).decode) == whole
            assert (
                len(transfer_levels(TransferConfig(steps=steps), 1 - (steps - whole) / steps).decode) == whole
            )


def test_what_leaves_no_step_is_said():
    with pytest.raises(RecipeError, match=r"no step.*0\.05"):
        transfer_levels(TransferConfig(), 0.04)
    for strength in (0.0, -0.1, 1.01):
        with pytest.raises(RecipeError, match="above 0 and at most 1"):
            transfer_levels(TransferConfig(), strength)
    with pytest.raises(RecipeError, match="1 to 1000"):
        transfer_levels(TransferConfig(steps=1001), 0.5)
    assert len(transfer_levels(TransferConfig(method="layout"), 0.04).decode) == 20, (
        "from noise, whatever the strength"
    )


def test_the_fast_profile_takes_four_steps_with_little_guidance_unless_told_otherwise():
    assert steps_and_guidance(TransferConfig(profile="lcm")) == (4, 1.5)
    assert steps_and_guidance(TransferConfig(profile="lcm", steps=8, guidance=2.0)) == (8, 2.0)
    assert steps_and_guidance(TransferConfig()) == (20, 9.0)
    with pytest.raises(RecipeError, match="fewer than transfer.steps"):
        transfer_levels(TransferConfig(profile="lcm", steps=8), 0.1)


@pytest.mark.parametrize("strength", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_the_consistency_sampler_is_that_of_diffusers(strength, steps):
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(steps, strength=strength)
    levels = transfer_levels(TransferConfig(profile="lcm", steps=steps), strength)
    assert list(levels.decode) == scheduler.timesteps.tolist() and levels.encode == levels.decode[0]
    start, generator = torch.randn(2, 4, 4, 8), torch.Generator().manual_seed(5)
    x, draws = start, []
    for t in scheduler.timesteps:
        again = torch.Generator()
        again.set_state(generator.get_state())
        draws.append(torch.randn(x.shape, generator=again))
        x = scheduler.step(network(0.1)(x, int(t)), t, x, generator=generator).prev_sample
    got = consistency_decode(start, draws, levels.decode, ABAR, network(0.1))
    assert torch.allclose(got, x, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("strength", [0.05, 0.6, 0.9, 1.0])
def test_edit_friendly_inversion_reconstructs(strength, dtype):
    z0, *draws = noises(21, dtype)
    levels = transfer_levels(TransferConfig(method="edit_friendly"), strength)
    start, maps = edit_friendly.invert(z0, draws, levels.decode, ABAR, network(0.1))
    again = decode(start, maps, levels.decode, ABAR, network(0.1))
    assert len(maps) == len(levels.decode)
    assert (again - z0).abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)
    other = decode(start, maps, levels.decode, ABAR, network(-0.3))
    assert (other - z0).abs().max() > 1e-3, "another prompt changes the image"


def test_edit_friendly_levels_are_drawn_on_their_own():
    """Noise maps of independently noised levels have more variance than the sampler's own noise, which is
    what holds the layout."""
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(1, 4, 32, 32, generator=generator, dtype=torch.float64)
    draws = [torch.randn(z0.shape, generator=generator, dtype=z0.dtype) for _ in LEVELS.decode]

    def true_noise(x: torch.Tensor, t: int) -> torch.Tensor:
        return (x - math.sqrt(ABAR[t]) * z0) / math.sqrt(1 - ABAR[t])

    start, maps = edit_friendly.invert(z0, draws, LEVELS.decode, ABAR, true_noise)
    assert torch.equal(start, add_noise(z0, draws[0], ABAR[LEVELS.decode[0]]))
    for t, before, found in zip(LEVELS.decode, LEVELS.decode[1:], maps, strict=False):
        share = (1 - ABAR[t] / ABAR[before]) / (
            1 - ABAR[t]
        )  # of the level's noise, what the sampler draws anew
        assert float(found.std()) == pytest.approx(math.sqrt(2 / share - 1), rel=0.05)
    assert float(maps[0].std()) > 1.5


def test_without_noise_there_are_no_maps():
    with pytest.raises(ValueError, match="eta"):
        edit_friendly.invert(*[noises(1)[0], noises(18), LEVELS.decode, ABAR, network(0.0)], eta=0.0)


def test_stochastic_inversion_does_not_reconstruct():
    """What the method's description says of it: relative errors of a few tenths, where the edit-friendly one
    has none."""
    z0, noise, *draws = noises(20)
    z = encode(z0, noise, LEVELS.encode, ABAR, network(0.0))
    error = (decode(z, draws, LEVELS.decode, ABAR, network(0.0)) - z0).norm() / z0.norm()
    assert error > 0.1


def test_deterministic_steps_draw_nothing():
    z0, noise = noises(2)
    z = encode(z0, noise, LEVELS.encode, ABAR, network(0.0))
    assert torch.isfinite(decode(z, [], LEVELS.decode, ABAR, network(0.0), eta=0.0)).all()


@pytest.mark.parametrize(
    ("before", "size", "after"),
    [
        ((1024, 2048), 512, (512, 1024)),
        ((1080, 1920), 512, (512, 896)),
        ((1052, 1914), 512, (512, 960)),
        ((720, 1280), 512, (512, 896)),
        ((360, 480), 512, (512, 704)),
        ((10, 1000), 512, (512, 51200)),
        ((31, 33), 20, (64, 64)),
    ],
)
def test_sizes_are_rounded_as_the_authors_do(before, size, after):
    config = TransferConfig(size=size)
    assert generated_size(*before, config) == after
    assert all(side % 64 == 0 for side in after)
    factor = size / min(before)
    assert after == tuple(max(64, int(np.round(side * factor / 64.0)) * 64) for side in before)

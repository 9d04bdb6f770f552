"""Noise schedules, single steps, the low-pass operator and per-image noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.diffusion.lowpass import LowPass, matrices
from diffadapt.diffusion.noise import ItemNoise
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import ancestral_step, predict_xstart, q_sample


@pytest.mark.parametrize("steps", [5, 10, 20, 50, 100, 250, 1000])
def test_respacing_is_the_rounded_even_spacing(steps):
    thin = Schedule.linear().respace(steps)
    assert thin.timesteps.tolist() == [round(i * 999 / (steps - 1)) for i in range(steps)]
    full = Schedule.linear()
    assert np.array_equal(thin.alphas_cumprod, full.alphas_cumprod[thin.timesteps])
    assert np.allclose(np.cumprod(1 - thin.betas), thin.alphas_cumprod, rtol=1e-12)


def test_the_published_start_levels():
    thin = Schedule.linear().respace(100)
    assert thin.timesteps[50] == 505 and thin.timesteps[49] == 494


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_respacing_is_refused(steps):
    with pytest.raises(RecipeError):
        Schedule.linear().respace(steps)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
)
def test_scheduler_configs_agree_with_diffusers(config):
    ours = Schedule.from_scheduler_config(config)
    theirs = DDPMScheduler.from_config(config)
    assert np.abs(ours.alphas_cumprod - theirs.alphas_cumprod.double().numpy()).max() < 2e-5
    assert ours.prediction_type == theirs.config.prediction_type


@pytest.mark.parametrize(
    "config", [{"beta_schedule": "sigmoid"}, {"prediction_type": "flow"}, {"trained_betas": [0.0]}]
)
def test_unknown_scheduler_configs_are_refused(config):
    with pytest.raises(WeightsError):
        Schedule.from_scheduler_config(config)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_each_prediction_type_finds_x0(kind):
    schedule = Schedule.from_scheduler_config({"prediction_type": kind}).respace(50)
    x0, eps = torch.rand(3, 1, 4, 4) * 2 - 1, torch.randn(3, 1, 4, 4)
    index = torch.tensor([0, 20, 49])
    x = q_sample(schedule, index, x0, eps)
    abar = torch.tensor(schedule.alphas_cumprod[index.numpy()], dtype=torch.float32).view(-1, 1, 1, 1)
    out = {"epsilon": eps, "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * x0, "sample": x0}[kind]
    assert torch.allclose(predict_xstart(schedule, index, x, out, clip=False), x0, atol=2e-4)


def test_one_index_equals_an_index_an_image():
    schedule = Schedule.linear().respace(20)
    x, out, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4), torch.randn(2, 3, 4, 4)
    for i in (0, 7, 19):
        one = ancestral_step(schedule, i, x, out, noise)
        each = ancestral_step(schedule, torch.tensor([i, i]), x, out, noise)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, each, strict=True))


def test_fixed_variances_bracket_the_learned_range():
    schedule = Schedule.linear().respace(20)
    x, eps = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    small = ancestral_step(schedule, 7, x, eps, torch.zeros_like(x)).log_variance
    low = ancestral_step(
        schedule, 7, x, torch.cat([eps, -torch.ones_like(eps)], 1), torch.zeros_like(x)
    ).log_variance
    high = ancestral_step(
        schedule, 7, x, torch.cat([eps, torch.ones_like(eps)], 1), torch.zeros_like(x)
    ).log_variance
    assert torch.allclose(small, low) and torch.allclose(
        high, torch.full_like(x, float(np.log(schedule.betas[7])))
    )


def test_wrong_channel_counts_are_noticed():
    with pytest.raises(ValueError, match="channels"):
        predict_xstart(Schedule.linear(), 3, torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 4, 4))


@pytest.mark.parametrize(("height", "width", "factor"), [(16, 16, 2), (30, 22, 4), (9, 13, 5), (8, 8, 1)])
def test_lowpass_keeps_the_size_and_smooth_images(height, width, factor):
    phi = LowPass(factor)
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = rows.expand(1, 1, height, width).contiguous()
    y = phi(x)
    assert y.shape == x.shape
    if factor == 1:
        assert torch.allclose(y, x, atol=1e-6)
    middle = slice(height // 2 - 1, height // 2 + 1), slice(width // 2 - 1, width // 2 + 1)
    if min(height, width) >= 8 * factor:
        assert torch.allclose(y[..., middle[0], middle[1]], x[..., middle[0], middle[1]], atol=1e-3)


def test_lowpass_removes_a_checkerboard_and_is_linear():
    phi = LowPass(4)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)[None, None]
    assert phi(board).abs()[..., 8:-8, 8:-8].max() < 0.02
    a, b = torch.randn(1, 2, 32, 32), torch.randn(1, 2, 32, 32)
    assert torch.allclose(phi(2 * a - b), 2 * phi(a) - phi(b), atol=1e-5)


def test_lowpass_factor_must_fit():
    with pytest.raises(RecipeError):
        matrices(8, 9)


def test_noise_belongs_to_the_image():
    both, one = ItemNoise([5, 2**62], (2, 4, 4)), ItemNoise([2**62], (2, 4, 4))
    swapped = ItemNoise([2**62, 5], (2, 4, 4))
    for _ in range(3):
        a, b, c = both.draw(), one.draw(), swapped.draw()
        assert torch.equal(a[1], b[0]) and torch.equal(a[0], c[1])
        assert not torch.equal(a[0], a[1])


def test_successive_draws_differ_and_are_standard_normal():
    noise = ItemNoise([1], (3, 64, 64))
    a, b = noise.draw(), noise.draw()
    assert abs(float(a.mean())) < 0.03 and abs(float(a.std()) - 1) < 0.03
    assert abs(float((a * b).mean())) < 0.03


def test_an_announced_number_of_draws_is_kept_to():
    noise = ItemNoise([1], (1, 4, 4), draws=1)
    noise.draw()
    with pytest.raises(ValueError, match="announced"):
        noise.draw()


def test_prefetching_changes_nothing():
    ahead, plain = ItemNoise([3, 4], (3, 16, 16), draws=6, prefetch=True), ItemNoise([3, 4], (3, 16, 16))
    drawn = [ahead.draw() for _ in range(6)]
    assert all(torch.equal(a, plain.draw()) for a in drawn)
    with pytest.raises(ValueError, match="announced"):
        ahead.draw()
    ahead.close()


@pytest.mark.gpu
def test_prefetched_noise_on_a_device_equals_the_cpus():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there, here = ItemNoise([3, 4], (3, 16, 16), "cuda"), ItemNoise([3, 4], (3, 16, 16))
    for _ in range(7):
        assert torch.equal(there.draw().cpu(), here.draw())
    there.close()

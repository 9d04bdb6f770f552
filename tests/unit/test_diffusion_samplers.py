"""The samplers on data whose score is known: normally distributed pixels, where every loop has an exact
answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.samplers import sample
from diffadapt.diffusion.schedule import Schedule

MEAN, STD = 0.4, 0.3


def score_network(schedule: Schedule):
    """The exact noise prediction for pixels drawn from N(MEAN, STD^2)."""
    abar = torch.tensor(schedule.alphas_cumprod)

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = abar[t].view(-1, 1, 1, 1)
        x = x.double()
        return ((1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)).float()

    return network


def exact(schedule: Schedule, x: torch.Tensor) -> torch.Tensor:
    """Where the probability-flow equation takes ``x`` from the last training step."""
    a = float(schedule.alphas_cumprod[-1])
    return MEAN + STD * (x - np.sqrt(a) * MEAN) / np.sqrt(a * STD**2 + 1 - a)


def error(sampler: str, steps: int) -> float:
    schedule = Schedule.linear()
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    got = sample(score_network(schedule), x, schedule, sampler, steps, clip=False)
    return float((got - exact(schedule, x)).abs().max())


def test_ddim_converges_to_the_flow():
    assert error("ddim", 1000) < 0.01
    assert error("ddim", 100) < 0.6 * error("ddim", 50)


def test_dpm_solver_is_of_second_order():
    assert error("dpmsolver++", 200) < error("dpmsolver++", 100) / 3
    assert error("dpmsolver++", 200) < 0.5 * error("ddim", 200)


def test_dpm_solver_agrees_with_diffusers():
    schedule = Schedule.linear()
    thin = schedule.respace(50)
    theirs = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    theirs.set_timesteps(timesteps=thin.timesteps[::-1].tolist())
    network, x = score_network(schedule), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = x
    for t in theirs.timesteps:
        y = theirs.step(network(y, torch.full((2,), int(t))), t, y).prev_sample
    assert float((y - sample(network, x, schedule, "dpmsolver++", 50, clip=False)).abs().max()) < 2e-5


def test_ancestral_sampling_has_the_right_moments():
    schedule = Schedule.linear()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 1, 100, 100, generator=generator)
    out = sample(
        score_network(schedule), x, schedule, "ddpm", 200, clip=False,
        noise=lambda: torch.randn(x.shape, generator=generator),
    )  # fmt: skip
    assert abs(float(out.mean()) - MEAN) < 0.02 and abs(float(out.std()) - STD) < 0.02


def test_the_network_is_called_once_a_step_with_training_times():
    schedule, seen = Schedule.linear(), []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (3,) and t.dtype == torch.int64
        seen.append(int(t[0]))
        return torch.zeros_like(x)

    for sampler in ("ddpm", "ddim", "dpmsolver++"):
        seen.clear()
        sample(network, torch.randn(3, 1, 4, 4), schedule, sampler, 5, noise=lambda: torch.zeros(3, 1, 4, 4))
        assert seen == [999, 749, 500, 250, 0]


def test_a_zero_terminal_snr_schedule_samples_finite_images():
    schedule = Schedule.from_scheduler_config(
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    )
    for sampler in ("ddim", "dpmsolver++", "ddpm"):
        x = torch.randn(1, 1, 8, 8)
        out = sample(
            lambda x, t: torch.zeros_like(x), x, schedule, sampler, 10, noise=lambda: torch.zeros(1, 1, 8, 8)
        )
        assert torch.isfinite(out).all()


def test_user_errors():
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(RecipeError, match="sampler"):
        sample(lambda x, t: x, x, Schedule.linear(), "euler", 5)
    with pytest.raises(RecipeError, match="noise"):
        sample(lambda x, t: x, x, Schedule.linear(), "ddpm", 5)

"""Sampling loops on float64 tables: ancestral (DDPM), DDIM and DPM-Solver++(2M).

Only the ancestral loop is the published method; the other two need fewer steps and change the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import ancestral_step, predict_xstart

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x (B, C, H, W), t int64 (B,)) -> model output (B, C or 2C, H, W)."""
NoiseSource = Callable[[], torch.Tensor] | Iterable[torch.Tensor] | None
"""Gives a standard normal (B, C, H, W) a step: ``ItemNoise.draw``, or tensors in the order of the steps."""
Guide = Callable[[torch.Tensor, float], torch.Tensor]
"""(predicted x0, (B, C, H, W), and the abar that is stepped to) -> what the step takes for x0."""


@torch.no_grad()
def sample(
    network: Network,
    x: torch.Tensor,
    schedule: Schedule,
    sampler: Literal["ddpm", "ddim", "dpmsolver++"] = "ddpm",
    steps: int | None = None,
    noise: NoiseSource = None,
    clip: bool = True,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Denoise ``x`` from the noisiest index to a clean sample.

    Args:
        network: called once a step.
        x: the start noise, float32 (B, C, H, W).
        schedule: the training process; it is thinned to ``steps`` first (None: as it is).
        noise: step noise for ``ddpm``, one draw a step but the last; the others are deterministic and draw
        none.
        clip: clamp the predicted x0 to [-1, 1] (pixels yes, latents no).
        guide: changes the clamped x0 before each step; the noise that goes with it stays that of the
        network's own x0 (MPGD, He et al. 2024, algorithm 1). Nothing goes back through the network.

    Returns float32 (B, C, H, W). Raises RecipeError for an unknown sampler or an impossible number of steps.
    """
    if steps is not None:
        schedule = schedule.respace(steps)
    x = x.float()
    if sampler == "ddpm":
        return _ddpm(network, x, schedule, noise_source(noise), clip, guide)
    if sampler == "ddim":
        return _ddim(network, x, schedule, clip, guide)
    if sampler == "dpmsolver++":
        return _dpm_solver(network, x, schedule, clip, guide)
    raise RecipeError(f"The sampler {sampler!r} is not known; use ddpm, ddim or dpmsolver++.")


def noise_source(noise: NoiseSource) -> Callable[[], torch.Tensor]:
    """A function that gives the next noise, whatever form ``noise`` has."""
    if callable(noise):
        return noise
    if noise is None:

        def missing() -> torch.Tensor:
            raise RecipeError("The ancestral sampler needs a noise source; give ItemNoise(...).draw.")

        return missing
    stream = iter(noise)
    return lambda: next(stream)


def network_time(schedule: Schedule, index: int, x: torch.Tensor) -> torch.Tensor:
    """What the network receives as time at ``index``: int64 (B,)."""
    return torch.full((x.shape[0],), int(schedule.timesteps[index]), dtype=torch.int64, device=x.device)


def _ddpm(
    network: Network, x: torch.Tensor, schedule: Schedule, noise: Callable, clip: bool, guide: Guide | None
) -> torch.Tensor:
    for i in reversed(range(len(schedule))):
        out = network(x, network_time(schedule, i, x))
        step = ancestral_step(schedule, i, x, out, noise() if i > 0 else None, clip)
        x = step.sample
        if guide is not None:
            moved = guide(step.pred_xstart, float(schedule.alphas_cumprod_prev[i])) - step.pred_xstart
            x = x + float(schedule.posterior_mean_coef1[i]) * moved
    return x


def ddim_step(
    schedule: Schedule,
    index: int,
    x: torch.Tensor,
    x0: torch.Tensor,
    to: float | None = None,
    guided: torch.Tensor | None = None,
) -> torch.Tensor:
    """The deterministic DDIM step (eta = 0; Song et al. 2021, equation 12) from ``index``, given the
    predicted x0.

    ``to`` is the abar that is stepped to, by default abar_{index - 1}; ``guided`` what is stepped to in x0's
    place, with the noise that goes with x0.
    """
    abar = float(schedule.alphas_cumprod[index])
    before = float(schedule.alphas_cumprod_prev[index]) if to is None else to
    # The noise that goes with x0: after clamping it is no longer what the network said.
    eps = (x - float(np.sqrt(abar)) * x0) / float(np.sqrt(1.0 - abar))
    return float(np.sqrt(before)) * (x0 if guided is None else guided) + float(np.sqrt(1.0 - before)) * eps


def _ddim(
    network: Network, x: torch.Tensor, schedule: Schedule, clip: bool, guide: Guide | None
) -> torch.Tensor:
    for i in reversed(range(len(schedule))):
        out = network(x, network_time(schedule, i, x))
        x0 = predict_xstart(schedule, i, x, out, clip)
        guided = None if guide is None else guide(x0, float(schedule.alphas_cumprod_prev[i]))
        x = ddim_step(schedule, i, x, x0, guided=guided)
    return x


def _dpm_solver(
    network: Network, x: torch.Tensor, schedule: Schedule, clip: bool, guide: Guide | None
) -> torch.Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); the first step and the last one (to sigma = 0) are of
    first order."""
    abar = schedule.alphas_cumprod
    alpha, sigma = np.sqrt(abar), np.sqrt(1.0 - abar)
    # A zero-terminal-SNR schedule begins at alpha = 0, where lambda is minus infinity.
    lam = np.log(np.maximum(alpha, 1e-10)) - np.log(sigma)
    older: torch.Tensor | None = None
    for i in reversed(range(len(schedule))):
        x0 = predict_xstart(schedule, i, x, network(x, network_time(schedule, i, x)), clip)
        if guide is not None:
            x0 = guide(x0, float(schedule.alphas_cumprod_prev[i]))
        if i == 0:
            return x0
        step = lam[i - 1] - lam[i]
        target = x0
        if older is not None:
            ratio = (lam[i] - lam[i + 1]) / step
            target = float(1.0 + 0.5 / ratio) * x0 - float(0.5 / ratio) * older
        x = float(sigma[i - 1] / sigma[i]) * x - float(alpha[i - 1] * np.expm1(-step)) * target
        older = x0
    return x

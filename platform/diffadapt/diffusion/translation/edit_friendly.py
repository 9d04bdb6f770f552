"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): noise maps under which an image is its own
reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffadapt.diffusion.samplers import NoiseSource, noise_source
from diffadapt.diffusion.translation.inversion import Predictor, add_noise, ddim_mean, previous_levels


def invert(
    z0: torch.Tensor,
    noises: NoiseSource,
    timesteps: Sequence[int],
    alphas_cumprod: np.ndarray,
    predict: Predictor,
    eta: float = 1.0,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The start latents and the noise map of every step that lead
    :func:`~diffadapt.diffusion.translation.inversion.decode` back to ``z0``.

    x_t is drawn from q(x_t | z0) at every level on its own, with one of ``noises`` a level in the order of
    ``timesteps`` (descending), so that the maps hold the image's layout; z_t = (x_{t-1} - mu_t(x_t)) /
    sigma_t with mu_t from ``predict`` under the source's prompt. The lowest level's target is ``z0`` itself.
    Replayed with the same predictor the maps give ``z0`` up to rounding; replayed under another prompt they
    give the edited image.

    Returns (x at timesteps[0], maps in the order of ``timesteps``), all of z0's shape. Raises ValueError for
    ``eta`` = 0, which has no noise maps.
    """
    if eta <= 0:
        raise ValueError("noise maps need eta above 0")
    draw = noise_source(noises)
    levels = [add_noise(z0, draw(), float(alphas_cumprod[t])) for t in timesteps]
    x, maps = levels[0], []
    for t, abar_prev, target in zip(
        timesteps, previous_levels(timesteps, alphas_cumprod), [*levels[1:], z0], strict=True
    ):
        mean, sigma = ddim_mean(x, predict(x, t), float(alphas_cumprod[t]), abar_prev, eta)
        maps.append((target - mean) / sigma)
        x = mean + sigma * maps[-1]  # as the replay will find it: rounding does not add up
    return levels[0], maps

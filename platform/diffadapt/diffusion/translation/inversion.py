"""Stochastic inversion and DDIM decoding (ZoDi section 3.2; InST, Zhang et al. 2023), as functions of latents
and a noise predictor.

Latents are (B, C, h, w) tensors of any float type; coefficients come from float64 tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from diffadapt.diffusion.samplers import NoiseSource, noise_source

Predictor = Callable[[torch.Tensor, int], torch.Tensor]
"""(x (B, C, h, w), t) -> the predicted noise, of x's shape; conditions and guidance are its own matter."""


def guided(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): the unconditional prediction and ``scale`` times the
    difference."""
    return unconditional + scale * (conditional - unconditional)


def add_noise(z0: torch.Tensor, noise: torch.Tensor, abar: float) -> torch.Tensor:
    """A draw of q(x_t | z0): sqrt(abar) z0 + sqrt(1 - abar) noise."""
    return math.sqrt(abar) * z0 + math.sqrt(1.0 - abar) * noise


def encode(
    z0: torch.Tensor, noise: torch.Tensor, t: int, alphas_cumprod: np.ndarray, predict: Predictor
) -> torch.Tensor:
    """Stochastic inversion: ``z0`` with the noise that the network finds in its noised version.

    x = sqrt(abar_t) z0 + sqrt(1 - abar_t) n; e = predict(x, t); returned is sqrt(abar_t) z0 + sqrt(1 -
    abar_t) e. ``predict`` is asked under the target prompt without guidance. ``alphas_cumprod`` float64 (T,),
    ``t`` below T.
    """
    abar = float(alphas_cumprod[t])
    return add_noise(z0, predict(add_noise(z0, noise, abar), t), abar)


def predicted_clean(x: torch.Tensor, eps: torch.Tensor, abar: float) -> torch.Tensor:
    """The clean latents that ``x`` holds if its noise is ``eps``: (x - sqrt(1 - abar) eps) / sqrt(abar)."""
    return (x - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar)


def ddim_mean(
    x: torch.Tensor, eps: torch.Tensor, abar: float, abar_prev: float, eta: float
) -> tuple[torch.Tensor, float]:
    """Mean and deviation of the DDIM step from abar to abar_prev (Song et al. 2021, equation 12).

    The deviation is eta sqrt((1 - abar_prev) / (1 - abar)) sqrt(1 - abar / abar_prev).
    """
    sigma = eta * math.sqrt((1.0 - abar_prev) / (1.0 - abar) * (1.0 - abar / abar_prev))
    return (
        math.sqrt(abar_prev) * predicted_clean(x, eps, abar)
        + math.sqrt(max(1.0 - abar_prev - sigma**2, 0.0)) * eps,
        sigma,
    )


def previous_levels(timesteps: Sequence[int], alphas_cumprod: np.ndarray) -> list[float]:
    """The abar that each of the descending ``timesteps`` is stepped to; the last one goes to abar_0, not to 1
    (as ZoDi's authors' sampler)."""
    return [float(alphas_cumprod[t]) for t in (*timesteps[1:], 0)]


def decode(
    z: torch.Tensor,
    noises: NoiseSource,
    timesteps: Sequence[int],
    alphas_cumprod: np.ndarray,
    predict: Predictor,
    eta: float = 1.0,
) -> torch.Tensor:
    """Denoise ``z`` from the first of the descending ``timesteps`` to level 0.

    ``noises``: a standard normal of z's shape for every step, the last one included; none is drawn where
    ``eta`` is 0. Returns the latents at abar_0.
    """
    draw = noise_source(noises)
    for t, abar_prev in zip(timesteps, previous_levels(timesteps, alphas_cumprod), strict=True):
        mean, sigma = ddim_mean(z, predict(z, t), float(alphas_cumprod[t]), abar_prev, eta)
        z = mean if eta == 0 else mean + sigma * draw()
    return z

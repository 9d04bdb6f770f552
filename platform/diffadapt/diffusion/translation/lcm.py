"""Multistep sampling of a latent consistency model (Luo et al. 2023, algorithm 3): few steps, each to a clean
image and back to less noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from diffadapt.diffusion.samplers import NoiseSource, noise_source
from diffadapt.diffusion.translation.inversion import Predictor, add_noise, predicted_clean

_SIGMA_DATA, _TIME_SCALE = 0.5, 10.0


def consistency_decode(
    z: torch.Tensor,
    noises: NoiseSource,
    timesteps: Sequence[int],
    alphas_cumprod: np.ndarray,
    predict: Predictor,
) -> torch.Tensor:
    """Clean latents from ``z`` (B, C, h, w) at the first of the descending ``timesteps``; one of ``noises`` a
    step but the last.

    f(x, t) = c_skip x + c_out (x - sqrt(1 - abar) eps) / sqrt(abar), with c_skip = 0.25 / ((10 t)^2 + 0.25)
    and c_out = 10 t / sqrt((10 t)^2 + 0.25), as the published weights were distilled.
    """
    draw = noise_source(noises)
    for i, t in enumerate(timesteps):
        x0, scaled = predicted_clean(z, predict(z, t), float(alphas_cumprod[t])), t * _TIME_SCALE
        norm = scaled**2 + _SIGMA_DATA**2
        z = scaled / math.sqrt(norm) * x0 + _SIGMA_DATA**2 / norm * z
        if i + 1 < len(timesteps):
            z = add_noise(z, draw(), float(alphas_cumprod[timesteps[i + 1]]))
    return z

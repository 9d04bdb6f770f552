"""Gaussian, shot and impulse noise: independent in every pixel and channel, so no lengths and no scaling."""

from __future__ import annotations

import numpy as np


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """x + N(0, sigma), x in [0, 1]."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return image / 255.0 + sigma * rng.standard_normal(image.shape)


def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson(x * photons) / photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return rng.poisson(image / 255.0 * photons) / photons


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a fraction of all samples, channels apart, becomes 0 or 1 with equal odds."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = rng.random(image.shape) <= amount
    salt = rng.random(image.shape) <= 0.5
    return np.where(hit, salt.astype(np.float64), image / 255.0)

"""Snow, fog and brightness (frost has its own file)."""

from __future__ import annotations

import numpy as np

from diffadapt.data.corruptions.blur import smear
from diffadapt.data.corruptions.lengths import enlarge, pixels

SMALLEST_FLAKE = 2.0
"""Pixels. Without the smoothing of an enlargement, the thresholded noise would be several times as dense as
at 224."""


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A whitened picture under two layers of smeared flakes, one the other turned by 180 degrees.

    Flakes are thresholded Gaussian noise, enlarged to flakes and smeared downwards.
    """
    location, spread, flake, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    factor = pixels(image.shape)
    x = image / 255.0
    layer = location + spread * rng.standard_normal(image.shape[:2])
    layer = enlarge(layer, max(flake * factor, SMALLEST_FLAKE))
    layer[layer < threshold] = 0
    layer = np.floor(np.clip(layer, 0, 1) * 255)
    layer = smear(layer[..., None], radius * factor, sigma * factor, rng.uniform(-135, -45))
    layer = np.round(layer) / 255.0
    white = np.maximum(x, 1.5 * luma(x) + 0.5)
    return keep * x + (1 - keep) * white + layer + layer[::-1, ::-1]


def luma(x: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma of (H, W, 3), or a grey (H, W, 1) as it is."""
    return x if x.shape[2] == 1 else (x @ np.array([0.299, 0.587, 0.114]))[..., None]


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A plasma fractal added to the picture, then scaled back to the picture's own maximum."""
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    height, width = image.shape[:2]
    side = 1 << (max(height, width) - 1).bit_length()
    x = image / 255.0
    top = x.max()
    return (x + amount * plasma(side, decay, rng)[:height, :width, None]) * top / (top + amount)


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A periodic (side, side) height map in [0, 1] by the diamond-square algorithm; ``side`` is a power of
    two.

    At each halving of the step, new points are the mean of their four neighbours plus uniform noise in +-
    r^2, and r shrinks by ``decay``: the larger the decay, the smoother the map.
    """
    heights = np.zeros((side, side))
    step, r = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        centres = (pairs + np.roll(pairs, -1, axis=1)) / 4 + r * rng.uniform(-r, r, corners.shape)
        heights[half::step, half::step] = centres
        in_row = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        heights[::step, half::step] = in_row / 4 + r * rng.uniform(-r, r, corners.shape)
        in_column = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        heights[half::step, ::step] = in_column / 4 + r * rng.uniform(-r, r, corners.shape)
        step, r = half, r / decay
    heights -= heights.min()
    return heights / heights.max()


def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Value in HSV raised by 0.1 to 0.5. Hue and saturation stay, so every channel is multiplied by V' /
    V."""
    raised = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    x = image / 255.0
    value = x.max(axis=2, keepdims=True)
    new = np.minimum(value + raised, 1.0)
    return np.where(value > 0, x * (new / np.where(value > 0, value, 1.0)), new)

"""How lengths in pixels, published for 224-pixel images, carry over to other sizes; and resampling that types
share.

A length is multiplied by ``min(H, W) / 224``. Images under 32 pixels keep the lengths of a 32-pixel image: a
blur of a hundredth of a pixel would change nothing (CIFAR-10-C's published radii, 0.3 to 1.5, are close to
the lengths that this gives at 32). At 224 pixels every factor is exactly 1.
"""

from __future__ import annotations

import numpy as np

REFERENCE = 224
SMALLEST = 32


def relative(shape: tuple[int, ...]) -> float:
    """min(H, W) / 224, without a floor: for deformations that are relative to the picture."""
    return min(shape[:2]) / REFERENCE


def pixels(shape: tuple[int, ...]) -> float:
    """The factor for lengths in pixels: min(H, W) / 224, at least 32 / 224."""
    return max(min(shape[:2]), SMALLEST) / REFERENCE


def zoom_positions(n: int, factor: float) -> np.ndarray:
    """Where each of ``n`` output samples reads when the middle of ``n`` samples is enlarged by ``factor``.

    From 224 samples up, the benchmark's grid: ceil(n / factor) samples are stretched, corners aligned, to
    round(ceil(n / factor) * factor), and the middle is kept. That rounding swallows small factors when n is
    small, so below 224 the enlargement is continuous.
    """
    if n < REFERENCE:
        middle = (n - 1) / 2
        return middle + (np.arange(n) - middle) / factor
    crop = int(np.ceil(n / factor))
    stretched = int(round(crop * factor))
    first = (stretched - n) // 2
    return (n - crop) // 2 + (first + np.arange(n)) * ((crop - 1) / (stretched - 1))


def bilinear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of (H, W, ...) on the grid rows x columns (positions inside the image)."""
    return _along(_along(image, rows, 0), columns, 1)


def enlarge(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of (H, W, ...) enlarged by ``factor`` to the same shape."""
    return bilinear(image, zoom_positions(image.shape[0], factor), zoom_positions(image.shape[1], factor))


def _along(image: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    last = image.shape[axis] - 1
    low = np.clip(np.floor(positions).astype(int), 0, max(last - 1, 0))
    shape = [1] * image.ndim
    shape[axis] = -1
    weight = np.clip(positions - low, 0.0, 1.0).astype(image.dtype).reshape(shape)
    before = np.take(image, low, axis)
    return before + weight * (np.take(image, np.minimum(low + 1, last), axis) - before)

"""Contrast, elastic transform, pixelate and JPEG compression."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image
from scipy import ndimage

from diffadapt.data.corruptions.lengths import pixels, relative
from diffadapt.data.image import encode_jpeg, open_image, to_pil


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """(x - mean) * c + mean, the mean taken of each channel."""
    c = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    x = image / 255.0
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * c + mean


def elastic_transform(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, then a smooth random displacement of every pixel; bilinear, borders mirrored.

    The published table mixes two regimes (severities 1 and 2: large affine maps; 3 to 5: small, rough
    displacements), so the squared error does not rise from 2 to 3. The affine part is relative to the
    picture. The smoothing length is at least one pixel and displacements shrink no further than to a quarter
    of their size at 224 pixels.
    """
    amplitude, sigma, affine = (
        (488.0, 170.8, 24.4),
        (488.0, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )[severity - 1]
    factor = pixels(image.shape)
    smooth = max(sigma * factor, 1.0)
    # White noise smoothed by sigma has a deviation proportional to 1 / sigma.
    amplitude *= smooth / sigma * max(factor, 0.25)
    height, width = image.shape[:2]
    x = _random_affine((image / 255.0).astype(np.float32), affine * relative(image.shape), rng)
    down_filter, across_filter = _smoothing(height, smooth), _smoothing(width, smooth)
    right, down = (
        amplitude * (down_filter @ rng.uniform(-1, 1, (height, width)) @ across_filter.T) for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    return _sample(x, rows + down, columns + right, "reflect").astype(np.float64)


def _random_affine(x: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """The map that moves three points around the centre by up to ``amount`` pixels in x and in y."""
    height, width = x.shape[:2]
    side = min(height, width) // 3
    middle = np.array([width // 2, height // 2], dtype=np.float64)
    points = middle + side * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-amount, amount, points.shape)
    # Row vectors: [x', y', 1] @ backward = [x, y].
    backward = np.linalg.solve(np.c_[moved, np.ones(3)], points)
    rows, columns = np.mgrid[:height, :width]
    source = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ backward
    return _sample(x, source[..., 1], source[..., 0], "mirror")


def _sample(x: np.ndarray, rows: np.ndarray, columns: np.ndarray, mode: str) -> np.ndarray:
    at = np.stack([rows, columns])
    return np.stack(
        [ndimage.map_coordinates(x[..., c], at, order=1, mode=mode) for c in range(x.shape[2])], axis=-1
    )


@functools.lru_cache(maxsize=32)
def _smoothing(n: int, sigma: float) -> np.ndarray:
    """The Gaussian filter of scipy (mode reflect, cut at three sigma) along ``n`` samples, as an (n, n)
    matrix."""
    return ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode="reflect", truncate=3.0)


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Shrunk and enlarged again with box filters. Sides of int(c * n) pixels, and every severity at least one
    pixel fewer than the one before (which binds only where the table's sizes coincide, from about 20 pixels
    down).
    """
    height, width = image.shape[:2]
    small = to_pil(image).resize((_shrunk(width, severity), _shrunk(height, severity)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)).reshape(image.shape)


def _shrunk(n: int, severity: int) -> int:
    size = 0
    for level in (5, 4, 3, 2, 1)[: 6 - severity]:
        size = max(int(n * (0.6, 0.5, 0.4, 0.3, 0.25)[level - 1]), size + 1)
    return size


def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """JPEG at quality 25, 18, 15, 10 or 7, 4:2:0."""
    data = encode_jpeg(image, quality=(25, 18, 15, 10, 7)[severity - 1])
    with open_image(data, "The compressed image") as opened:
        return np.asarray(opened).reshape(image.shape)

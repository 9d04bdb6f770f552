"""Defocus, glass, motion and zoom blur."""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft, ndimage

from diffadapt.data.corruptions.lengths import enlarge, pixels

SUPERSAMPLING = 16
SMALLEST_SMEAR = 0.6
"""Pixels. A one-sided Gaussian with a smaller deviation hardly reaches the next pixel."""


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Convolution with an anti-aliased disc; borders are mirrored without repeating the edge."""
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return _convolve(image / 255.0, _disc(radius, alias, pixels(image.shape)))


@functools.lru_cache(maxsize=32)
def _disc(radius: float, alias: float, factor: float) -> np.ndarray:
    """At factor 1 the benchmark's kernel: pixels whose centre is within the radius, smoothed by a 3x3 (radius
    above 8: 5x5) Gaussian. At other sizes the exact area of the disc of radius * factor in each pixel,
    smoothed by sigma 0.5.
    """
    if factor == 1:
        half = max(8, int(radius))
        reach = np.arange(-half, half + 1)
        disc = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(np.float64)
        taps = 3 if radius <= 8 else 5
    else:
        radius, alias, taps = radius * factor, 0.5, 3
        half = int(np.ceil(radius)) + 2
        fine = (np.arange((2 * half + 1) * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - half - 0.5
        inside = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).astype(np.float64)
        side = 2 * half + 1
        disc = inside.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean(axis=(1, 3))
    disc /= disc.sum()
    line = np.exp(-0.5 * (np.arange(taps) - taps // 2) ** 2 / alias**2)
    line /= line.sum()
    return ndimage.correlate1d(ndimage.correlate1d(disc, line, 0, mode="mirror"), line, 1, mode="mirror")


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(H, W, C) filtered by a symmetric odd square kernel through the FFT, borders mirrored."""
    half = kernel.shape[0] // 2
    height, width = image.shape[:2]
    rows = _mirrored(height, half)
    columns = _mirrored(width, half)
    padded = image[rows][:, columns]
    shape = [fft.next_fast_len(n, real=True) for n in padded.shape[:2]]
    spectrum = fft.rfft2(padded, shape, axes=(0, 1)) * fft.rfft2(kernel, shape)[..., None]
    full = fft.irfft2(spectrum, shape, axes=(0, 1))
    return full[2 * half : 2 * half + height, 2 * half : 2 * half + width]


def _mirrored(n: int, pad: int) -> np.ndarray:
    """Indices -pad .. n + pad - 1 folded back into 0 .. n - 1 without repeating the edge."""
    period = max(2 * (n - 1), 1)
    index = np.abs(np.arange(-pad, n + pad)) % period
    return np.where(index >= n, period - index, index)


def glass_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur, pixels displaced by up to delta, Gaussian blur.

    The benchmark's loop means to swap two pixels but, on colour images, copies one over the other; the
    published images were made so, and this does the same, in the same order (from the lower right corner).
    Where delta shrinks below a pixel, each pixel is displaced by up to one with probability delta * factor.
    """
    sigma, delta, passes = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    factor = pixels(image.shape)
    # A Gaussian under a third of its published width would vanish between the pixels.
    sigma *= max(factor, 0.35)
    reach = max(1, int(round(delta * factor)))
    blurred = (_gaussian(image / 255.0, sigma) * 255 + 1e-6).astype(np.uint8)
    height, width = image.shape[:2]
    source = list(range(height * width))
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    target = (rows[:, None] * width + columns[None]).ravel()
    for _ in range(passes):
        shift = rng.integers(-reach, reach, size=(2, target.size))
        moves = rng.random(target.size) < delta * factor
        other = target + np.where(moves, shift[1] * width + shift[0], 0)
        for a, b in zip(target.tolist(), other.tolist(), strict=True):
            source[a] = source[b]
    shuffled = blurred.reshape(height * width, -1)[np.asarray(source)].reshape(image.shape)
    return _gaussian(shuffled / 255.0, sigma)


def _gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Smearing along a direction within 45 degrees of the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    factor = pixels(image.shape)
    sigma = max(sigma * factor, SMALLEST_SMEAR)
    return np.round(smear(image.astype(np.float64), radius * factor, sigma, rng.uniform(-45, 45))) / 255.0


def smear(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """One-sided motion blur of (H, W, C): the mean of 2 * radius + 1 samples along ``angle`` (degrees from
    the x axis towards larger y) with weights exp(-i^2 / 2 sigma^2), at whole pixels, edges repeated.
    ImageMagick's motion blur.
    """
    taps = int(np.ceil(2 * radius - 1e-9)) + 1
    weights = np.exp(-0.5 * (np.arange(taps) / sigma) ** 2)
    weights /= weights.sum()
    direction = np.deg2rad(angle)
    down = np.ceil(np.arange(taps) * np.sin(direction) - 0.5).astype(int)
    right = np.ceil(np.arange(taps) * np.cos(direction) - 0.5).astype(int)
    pad = int(max(np.abs(down).max(), np.abs(right).max()))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for weight, y, x in zip(weights, down + pad, right + pad, strict=True):
        out += weight * padded[y : y + height, x : x + width]
    return out


def zoom_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and its enlargements by 1, 1 + step, ... (factors are relative, so they do not
    scale)."""
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, stop, step)
    x = (image / 255.0).astype(np.float32)
    total = x.copy()
    for factor in factors:
        total += enlarge(x, float(factor))
    return total.astype(np.float64) / (len(factors) + 1)

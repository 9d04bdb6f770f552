"""Corruptions that are no test types: what a student is trained on (diffusion/aligners/distilled).

Three are the types that ImageNet-C's authors set apart for validation (Hendrycks and Dietterich 2019), four
are of ImageNet-C-bar, which was chosen to be unlike ImageNet-C (Mintun et al., NeurIPS 2021; severities as
published). Functions as in the other files: (image uint8 (H, W, 1 or 3), severity 1..5, generator) -> float
in [0, 1], not clipped.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from diffadapt.data.corruptions.lengths import pixels

GREY = 128 / 255


def speckle_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """x + x N(0, sigma)."""
    sigma = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    x = image / 255.0
    return x + x * sigma * rng.standard_normal(x.shape)


def gaussian_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur of sigma 1 to 6 at 224 pixels, at least a third of it (as glass_blur's)."""
    sigma = (1, 2, 3, 4, 6)[severity - 1] * max(pixels(image.shape), 0.35)
    return ndimage.gaussian_filter(image / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def saturate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Saturation in HSV times a factor, plus an offset; a grey of three channels has hue 0. An image of one
    channel stays as it is."""
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    x = image / 255.0
    if x.shape[2] == 1:
        return x
    value = x.max(axis=2, keepdims=True)
    spread = value - x.min(axis=2, keepdims=True)
    old = spread / np.where(value > 0, value, 1.0)
    new = np.clip(old * factor + offset, 0, 1)
    # How far each channel lies below the value, as a share of the spread: hue and value stay.
    below = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1.0), np.array([0.0, 1.0, 1.0]))
    return value * (1 - new * below)


def single_frequency_greyscale(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A plane wave of a random frequency and direction is added, alike in all channels."""
    strength = (1.0, 1.5, 2.0, 4.5, 5.0)[severity - 1] / 10 * 196 / 255
    first = rng.uniform(-np.pi, np.pi)
    along = rng.permutation([first, rng.uniform(-abs(first), abs(first))])
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return (
        image / 255.0 + strength * np.sin(x * along[0] + y * along[1] + rng.uniform(0, 2 * np.pi))[..., None]
    )


def cocentric_sine_waves(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Rings around a random point, their edges waved, are added."""
    strength = (3.0, 5.0, 8.0, 9.0, 10.0)[severity - 1] / 10 * 128 / 255
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = np.mgrid[:height, :width]
    dy, dx = y - rng.uniform(0, height), x - rng.uniform(0, width)
    waves, amplitude, ring = rng.uniform(0, 10), rng.uniform(0, side / 10), rng.uniform(0, side / 10)
    distance = np.hypot(dx, dy) + np.sin(np.arctan2(dx, dy) * waves) * amplitude
    ring = max(ring, 1e-3)
    return image / 255.0 + strength * (distance % ring / ring - 0.5)[..., None]


def brownish_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose spectrum falls as 1 / (f^2 + 1), f in periods a picture; each channel has its own."""
    strength = (1.0, 2.0, 3.0, 4.0, 5.0)[severity - 1] / 10 * 64 / 255
    height, width, channels = image.shape
    down, across = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    power = 1 / (down[:, None] ** 2 + across[None] ** 2 + 1)
    phases = rng.uniform(0, 2 * np.pi, (channels, height, width))
    noise = np.fft.ifft2(power * np.exp(1j * phases)).real
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return image / 255.0 + strength * noise.transpose(1, 2, 0)


def checkerboard_cutout(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the dark squares of a turned checkerboard become grey."""
    fraction = (2.0, 3.0, 4.0, 5.0, 6.0)[severity - 1] / 10
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    square = max(rng.uniform(0.1, 0.25) * min(height, width), 1.0)
    y, x = np.mgrid[:height, :width]
    row = np.floor((np.cos(angle) * y + np.sin(angle) * x) / square).astype(int)
    column = np.floor((-np.sin(angle) * y + np.cos(angle) * x) / square).astype(int)
    row, column = row - row.min(), column - column.min()
    chosen = rng.random((row.max() + 1, column.max() + 1)) < fraction
    hidden = ((row + column) % 2 == 0) & chosen[row, column]
    return np.where(hidden[..., None], GREY, image / 255.0)


FUNCTIONS = {
    f.__name__: f
    for f in (
        speckle_noise,
        gaussian_blur,
        saturate,
        single_frequency_greyscale,
        cocentric_sine_waves,
        brownish_noise,
        checkerboard_cutout,
    )
}

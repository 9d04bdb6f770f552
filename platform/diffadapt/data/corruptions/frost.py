"""Frost: a picture of ice blended over the image; the official pictures, or a procedural stand-in."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import fft

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.corruptions.lengths import relative
from diffadapt.data.image import open_image

OFFICIAL = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The pictures that the benchmark draws from (its generator never reaches the sixth, frost6.jpg)."""

FINEST = 0.4
"""The procedural ice shrinks no further than to this fraction of its size at 224 pixels: finer needles are
white noise."""


def frost(image: np.ndarray, severity: int, rng: np.random.Generator, textures: str | None) -> np.ndarray:
    """keep * x + ice * texture. Raises DataError when ``textures`` lacks one of OFFICIAL."""
    keep, ice = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = image.shape[:2]
    if textures is None:
        texture = procedural_texture(height, width, max(relative(image.shape), FINEST), rng)
    else:
        texture = _official_crop(textures, height, width, relative(image.shape), rng)
    if image.shape[2] == 1:
        texture = texture @ np.array([[0.299], [0.587], [0.114]])
    return (keep * image + ice * texture) / 255.0


def _official_crop(
    textures: str, height: int, width: int, factor: float, rng: np.random.Generator
) -> np.ndarray:
    picture = _official(textures, OFFICIAL[rng.integers(len(OFFICIAL))], factor)
    grow = max((height + 1) / picture.shape[0], (width + 1) / picture.shape[1])
    if grow > 1:
        size = (int(np.ceil(picture.shape[1] * grow)), int(np.ceil(picture.shape[0] * grow)))
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    top = rng.integers(picture.shape[0] - height)
    left = rng.integers(picture.shape[1] - width)
    return picture[top : top + height, left : left + width].astype(np.float64)


@functools.lru_cache(maxsize=16)
def _official(textures: str, name: str, factor: float) -> np.ndarray:
    """One official picture as uint8 RGB, scaled so that 224 of its pixels span the image's shorter side."""
    path = Path(textures) / name
    try:
        with open_image(path.read_bytes(), str(path)) as opened:
            picture = opened.convert("RGB")
    except (OSError, ItemError):
        raise DataError(
            f"{path} is missing or not an image: frost_textures must be a folder with {', '.join(OFFICIAL)}, "
            "or unset for the procedural texture."
        ) from None
    if factor != 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)
    return np.asarray(picture)


def procedural_texture(height: int, width: int, factor: float, rng: np.random.Generator) -> np.ndarray:
    """An ice-like picture, float64 (height, width, 3) in [0, 255]: needles in a few directions and fine
    grain, thick in some places and thin in others, bluish where thin. ``factor`` scales its lengths.
    """
    needles = np.zeros((height, width))
    first = rng.uniform(0, np.pi)
    for k in range(3):
        field = _filtered(
            height,
            width,
            22 * factor,
            max(1.6 * factor, 1.2),
            first + k * np.pi / 3 + rng.uniform(-0.2, 0.2),
            rng,
        )
        where = 1 / (1 + np.exp(-3 * _filtered(height, width, 18 * factor, 18 * factor, 0.0, rng)))
        needles = np.maximum(needles, where * np.exp(-4.0 * np.abs(field)))
    fine = max(2.0 * factor, 1.2)
    grain = np.exp(-1.5 * np.abs(_filtered(height, width, fine, fine, 0.0, rng)))
    cover = 1 / (1 + np.exp(-2.0 * _filtered(height, width, 45 * factor, 45 * factor, 0.0, rng)))
    ice = np.clip(0.12 + cover * (0.25 + 0.5 * needles + 0.35 * grain) + 0.3 * needles, 0, 1)[..., None]
    thin, thick = np.array([72.0, 92.0, 108.0]), np.array([236.0, 244.0, 250.0])
    return thin + ice * (thick - thin)


def _filtered(
    height: int, width: int, along: float, across: float, angle: float, rng: np.random.Generator
) -> np.ndarray:
    """Unit-variance Gaussian noise smoothed by an oriented Gaussian of the given standard deviations in
    pixels."""
    shape = (fft.next_fast_len(height), fft.next_fast_len(width, real=True))
    fy = fft.fftfreq(shape[0])[:, None]
    fx = fft.rfftfreq(shape[1])[None]
    u = fx * np.cos(angle) + fy * np.sin(angle)
    v = fy * np.cos(angle) - fx * np.sin(angle)
    response = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    smooth = fft.irfft2(fft.rfft2(rng.standard_normal(shape)) * response, shape)[:height, :width]
    # Parseval: the variance is the mean squared response over the full spectrum, of which rfft keeps half.
    mirrored = slice(1, (shape[1] + 1) // 2)
    power = (response**2).sum() + (response[:, mirrored] ** 2).sum()
    return smooth / np.sqrt(power / (shape[0] * shape[1]))

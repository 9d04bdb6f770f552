"""The 15 corruption types of ImageNet-C at five severities, for any image size and one or three channels.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019), with the parameters of its public generator. At 224 pixels the parameters are the
published ones; for other sizes, lengths in pixels follow the shorter side (see :mod:`.lengths`). What the
benchmark leaves to the process (its noise was unseeded, its files are JPEG quality 85) is decided here: one
seed an image, and uint8 arrays as they are.

The mean squared error rises with the severity, but for steps where the published tables trade one parameter
against
another: glass blur 1-2 and 3-4 (fewer passes, wider), frost 3-4 (the picture itself is darkened), elastic
transform 2-3 (another regime), and on small images snow 2-3 (flakes fewer but brighter) and pixelate 1-2 (a
grid that divides the side).
"""

from __future__ import annotations

import zlib

import numpy as np

from diffadapt.core.errors import DataError, ItemError, suggest
from diffadapt.data.config import CORRUPTIONS
from diffadapt.data.corruptions import blur, digital, extra, noise, weather
from diffadapt.data.corruptions.frost import frost

_FUNCTIONS = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    **extra.FUNCTIONS,
}
MIN_SIDE = 4


def corrupt(
    image: np.ndarray, name: str, severity: int, seed: int, textures: str | None = None
) -> np.ndarray:
    """A corrupted copy of a uint8 (H, W, 1 or 3) image: same shape, uint8.

    ``name`` is one of ``CORRUPTIONS`` or ``TRAINING_CORRUPTIONS``. ``seed`` (not negative) fixes every random
    choice; the same seed draws the same noise at all severities,
    and unrelated noise for each type. ``textures`` is a folder with ImageNet-C's frost pictures; without it
    frost is procedural. Values are truncated to integers, as the benchmark's generator does. Raises DataError
    for an unknown type, a severity outside 1..5 or missing textures, and ItemError for an image of another
    form.
    """
    if name not in CORRUPTIONS and name not in extra.FUNCTIONS:
        raise DataError(
            f"There is no corruption {name!r}.{suggest(name, CORRUPTIONS)} Known are:"
            f" {', '.join(CORRUPTIONS)}."
        )
    if severity not in (1, 2, 3, 4, 5):
        raise DataError(f"The severity of {name} is {severity!r}, but must be 1, 2, 3, 4 or 5.")
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] not in (1, 3)
        or min(image.shape[:2]) < MIN_SIDE
    ):
        raise ItemError(
            f"{name} needs a uint8 image of height x width x 1 or 3 with sides of at least {MIN_SIDE} pixels,"
            f" got {image.dtype} {image.shape}."
        )
    rng = generator(seed, name)
    if name == "frost":
        out = frost(image, severity, rng, textures or None)
    else:
        out = _FUNCTIONS[name](image, severity, rng)
    if out.dtype == np.uint8:
        return out
    # The small term undoes rounding of values that are integers but for floating point.
    return np.clip(out * 255.0 + 1e-6, 0, 255).astype(np.uint8)


def generator(seed: int, name: str) -> np.random.Generator:
    """The random stream of one image and one corruption type."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def corruption_label(name: str, textures: str | None = None) -> str:
    """The type's name as scores carry it: ``frost(procedural)`` when no official frost pictures are given."""
    return "frost(procedural)" if name == "frost" and not textures else name

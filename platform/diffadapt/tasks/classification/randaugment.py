"""RandAugment as FixMatch uses it (Sohn et al. 2020, section 2.3 and appendix D): random operations of random
strength.

timm's and torchvision's RandAugment hold the strength fixed for all images and have other ranges, hence this
one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

COUNT = 2
"""Operations an image."""
CUTOUT = 0.5
"""The largest side of the square that cutout fills, as a fraction of the image's."""
GREY = 127

Operation = Callable[[Image.Image, float], Image.Image]


def randaugment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two operations drawn with replacement, each with a uniformly drawn strength, then cutout. Grey or RGB,
    any size."""
    for index in rng.integers(len(OPERATIONS), size=COUNT):
        apply, low, high = OPERATIONS[NAMES[index]]
        image = apply(image, float(rng.uniform(low, high)))
    return cutout(image, rng)


def cutout(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A grey square of random side (up to half of the image's) around a random point, cut off at the
    border."""
    width, height = image.size
    side = rng.uniform(0, CUTOUT) * min(width, height)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
    right, bottom = min(width, round(x + side / 2)), min(height, round(y + side / 2))
    if right > left and bottom > top:
        image = image.copy()
        ImageDraw.Draw(image).rectangle(
            (left, top, right - 1, bottom - 1), fill=GREY if image.mode == "L" else (GREY,) * 3
        )
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "AutoContrast": (lambda image, v: ImageOps.autocontrast(image), 0, 1),
    "Brightness": (lambda image, v: ImageEnhance.Brightness(image).enhance(v), 0.05, 0.95),
    "Color": (lambda image, v: ImageEnhance.Color(image).enhance(v), 0.05, 0.95),
    "Contrast": (lambda image, v: ImageEnhance.Contrast(image).enhance(v), 0.05, 0.95),
    "Equalize": (lambda image, v: ImageOps.equalize(image), 0, 1),
    "Identity": (lambda image, v: image, 0, 1),
    "Posterize": (lambda image, v: ImageOps.posterize(image, min(8, int(v))), 4, 9),
    "Rotate": (lambda image, v: image.rotate(v), -30, 30),
    "Sharpness": (lambda image, v: ImageEnhance.Sharpness(image).enhance(v), 0.05, 0.95),
    "ShearX": (lambda image, v: _affine(image, 1, v, 0, 0, 1, 0), -0.3, 0.3),
    "ShearY": (lambda image, v: _affine(image, 1, 0, 0, v, 1, 0), -0.3, 0.3),
    "Solarize": (lambda image, v: ImageOps.solarize(image, int(v)), 0, 256),
    "TranslateX": (lambda image, v: _affine(image, 1, 0, v * image.size[0], 0, 1, 0), -0.3, 0.3),
    "TranslateY": (lambda image, v: _affine(image, 1, 0, 0, 0, 1, v * image.size[1]), -0.3, 0.3),
}
"""Name -> (operation, smallest strength, largest): factors of ImageEnhance, bits kept, degrees, tangents of
the angle, grey levels from which an image is inverted, and fractions of the side. Pillow equalizes nothing in
images of a few hundred pixels."""
NAMES = tuple(OPERATIONS)

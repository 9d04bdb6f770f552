"""AugMix views of one image (Hendrycks et al. 2020) as MEMO uses them (Zhang et al. 2022): crop, flip, then
mixed chains.

A view is a random resized crop x and m x + (1 - m) sum_i w_i chain_i(x), with w ~ Dirichlet(1, 1, 1), m ~
Beta(1, 1) and three chains of one to three operations, whose strength is drawn from U(0.1, 1) on a scale of
10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from diffadapt.data.image import to_pil

CHAINS, LONGEST, LEVEL = 3, 3, 1.0
Operation = Callable[[Image.Image, np.random.Generator], Image.Image]


def augmix_views(image: np.ndarray, count: int, size: int, seed: int, flip: bool = True) -> np.ndarray:
    """uint8 (H, W, 1 or 3) -> float32 (count, size, size, C) in 0..255, a function of the image and the seed
    alone."""
    rng = np.random.default_rng(seed)
    whole = to_pil(image)
    return np.stack([_mix(_crop(whole, size, rng, flip), rng) for _ in range(count)])


def _mix(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    weights, share = rng.dirichlet([1.0] * CHAINS), rng.beta(1.0, 1.0)
    mixed = np.zeros_like(_array(image))
    for weight in weights:
        chain = image
        for _ in range(int(rng.integers(1, LONGEST + 1))):
            chain = OPERATIONS[int(rng.integers(len(OPERATIONS)))](chain, rng)
        mixed += np.float32(weight) * _array(chain)
    # Mixing before or after the normalisation is the same, because the weights sum to one.
    return np.float32(share) * _array(image) + np.float32(1 - share) * mixed


def _array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image, dtype=np.float32)
    return array[..., None] if array.ndim == 2 else array


def _crop(image: Image.Image, size: int, rng: np.random.Generator, flip: bool) -> Image.Image:
    """Area .08-1 of the image, aspect 3/4-4/3, resized to ``size`` bilinearly; mirrored with probability one
    half."""
    width, height = image.size
    for _ in range(10):
        area, aspect = (
            rng.uniform(0.08, 1.0) * width * height,
            math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))),
        )
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    out = image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.mirror(out) if flip and rng.random() < 0.5 else out


def _strength(rng: np.random.Generator, largest: float) -> float:
    return rng.uniform(0.1, LEVEL) * largest / 10


def _signed(rng: np.random.Generator, value: float) -> float:
    return -value if rng.random() < 0.5 else value


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(_signed(rng, int(_strength(rng, 30))), resample=Image.Resampling.BILINEAR)


def _solarize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(_strength(rng, 256)))


def _posterize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, 4 - int(_strength(rng, 4)))


def _shear_x(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, _signed(rng, _strength(rng, 0.3)), 0, 0, 1, 0))


def _shear_y(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, _signed(rng, _strength(rng, 0.3)), 1, 0))


def _translate_x(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, _signed(rng, int(_strength(rng, image.width / 3))), 0, 1, 0))


def _translate_y(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _signed(rng, int(_strength(rng, image.height / 3)))))


OPERATIONS: tuple[Operation, ...] = (
    lambda image, rng: ImageOps.autocontrast(image),
    lambda image, rng: ImageOps.equalize(image),
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)

"""AugMix views of one image (Hendrycks et al. 2020) as MEMO uses them (Zhang et al. 2022): crop, flip, then
mixed chains.

A view is a random resized crop x and m x + (1 - m) sum_i w_i chain_i(x), with w ~ Dirichlet(1, 1, 1), m ~
Beta(1, 1) and three chains of one to three operations, whose strength is drawn from U(0.1, 1) on a scale of
10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from diffadapt.data.image import to_pil

CHAINS, LONGEST, LEVEL = 3, 3, 1.0
Operation = Callable[[Image.Image], Image.Image]
Drawing = Callable[[np.random.Generator, int], Operation]
"""Draws an operation for square images of a side."""


@dataclass(frozen=True)
class View:
    """All that is drawn for one view: the crop (left, top, right, bottom), whether it is mirrored, the
    operations of each chain, the chains' weights and the share of the crop itself."""

    box: tuple[int, int, int, int]
    mirrored: bool
    chains: tuple[tuple[Operation, ...], ...]
    weights: tuple[float, ...]
    share: float


def augmix_views(image: np.ndarray, count: int, size: int, seed: int, flip: bool = True) -> np.ndarray:
    """uint8 (H, W, 1 or 3) -> float32 (count, size, size, C) in 0..255, a function of the image and the seed
    alone."""
    views, whole = draw_views(image.shape[:2], count, size, seed, flip), to_pil(image)
    parts = np.stack([view_parts(whole, view, size) for view in views])
    return mixed(torch.from_numpy(parts), views).numpy()


def draw_views(shape: tuple[int, ...], count: int, size: int, seed: int, flip: bool = True) -> list[View]:
    """What is random of ``count`` views of an image of ``shape`` (H, W); nothing of it depends on pixels."""
    rng = np.random.default_rng(seed)
    return [_draw(shape[0], shape[1], size, rng, flip) for _ in range(count)]


def view_parts(whole: Image.Image, view: View, size: int) -> np.ndarray:
    """uint8 (1 + chains, size, size, C): the crop, and what each chain makes of it."""
    crop = whole.crop(view.box).resize((size, size), Image.Resampling.BILINEAR)
    made = [ImageOps.mirror(crop) if view.mirrored else crop]
    for chain in view.chains:
        image = made[0]
        for apply in chain:
            image = apply(image)
        made.append(image)
    return np.stack([np.asarray(image).reshape(size, size, -1) for image in made])


def mixed(parts: torch.Tensor, views: list[View]) -> torch.Tensor:
    """uint8 (V, 1 + chains, ...) of all views, on any device -> float32 (V, ...) in 0..255.

    Mixing before or after the normalisation is the same, because the weights sum to one.
    """
    device, ones = parts.device, (1,) * (parts.ndim - 2)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, *ones)

    chains = column([view.weights[0] for view in views]) * parts[:, 1].float()
    for c in range(1, CHAINS):
        chains += column([view.weights[c] for view in views]) * parts[:, 1 + c].float()
    chains *= column([1 - view.share for view in views])
    return column([view.share for view in views]) * parts[:, 0].float() + chains


def _draw(height: int, width: int, size: int, rng: np.random.Generator, flip: bool) -> View:
    """A crop of .08 to 1 of the area, aspect 3/4 to 4/3, half of them mirrored; then the chains."""
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
    mirrored = bool(flip and rng.random() < 0.5)
    weights, share = rng.dirichlet([1.0] * CHAINS), rng.beta(1.0, 1.0)
    chains = tuple(
        tuple(
            OPERATIONS[int(rng.integers(len(OPERATIONS)))](rng, size)
            for _ in range(int(rng.integers(1, LONGEST + 1)))
        )
        for _ in range(CHAINS)
    )
    return View((left, top, left + w, top + h), mirrored, chains, tuple(map(float, weights)), float(share))


def _strength(rng: np.random.Generator, largest: float) -> float:
    return rng.uniform(0.1, LEVEL) * largest / 10


def _signed(rng: np.random.Generator, value: float) -> float:
    return -value if rng.random() < 0.5 else value


def _affine(*coefficients: float) -> Operation:
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )


def _rotate(rng: np.random.Generator, side: int) -> Operation:
    angle = _signed(rng, int(_strength(rng, 30)))
    return lambda image: image.rotate(angle, resample=Image.Resampling.BILINEAR)


def _solarize(rng: np.random.Generator, side: int) -> Operation:
    threshold = 256 - int(_strength(rng, 256))
    return lambda image: ImageOps.solarize(image, threshold)


def _posterize(rng: np.random.Generator, side: int) -> Operation:
    bits = 4 - int(_strength(rng, 4))
    return lambda image: ImageOps.posterize(image, bits)


def _shear_x(rng: np.random.Generator, side: int) -> Operation:
    return _affine(1, _signed(rng, _strength(rng, 0.3)), 0, 0, 1, 0)


def _shear_y(rng: np.random.Generator, side: int) -> Operation:
    return _affine(1, 0, 0, _signed(rng, _strength(rng, 0.3)), 1, 0)


def _translate_x(rng: np.random.Generator, side: int) -> Operation:
    return _affine(1, 0, _signed(rng, int(_strength(rng, side / 3))), 0, 1, 0)


def _translate_y(rng: np.random.Generator, side: int) -> Operation:
    return _affine(1, 0, 0, 0, 1, _signed(rng, int(_strength(rng, side / 3))))


OPERATIONS: tuple[Drawing, ...] = (
    lambda rng, side: ImageOps.autocontrast,
    lambda rng, side: ImageOps.equalize,
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)

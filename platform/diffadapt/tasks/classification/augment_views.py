"""The views of an image that adaptation trains on: test, weak and strong, each a function of (image, seed)
alone.

``uda`` is Transfer-Learning-Library's training transform, ``strong`` FixMatch's: the weak view, RandAugment
and cutout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from diffadapt.data.resize import squash
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.preprocess import match_channels, prepare_image
from diffadapt.stages.image_table import Fixed
from diffadapt.tasks.classification.randaugment import randaugment
from diffadapt.train.views import Augment

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""RandomResizedCrop's area and aspect ratio (Szegedy et al. 2015)."""
SQUASHED = ("uda", "crop", "center")
"""Presets whose weak view is one of the squashed image."""


def make_views(
    preset: str, inputs: ClassifierConfig, flip: bool, scale: tuple[float, float] = SCALE
) -> dict[str, Augment]:
    """Kind -> ``augment(image uint8 (H, W, 1 or 3), seed)`` -> uint8 (in_channels, crop, crop), for test,
    weak and strong.

    The weak view of ``preset``: ``uda`` squashes to ``inputs.resize`` on both sides and takes a
    RandomResizedCrop of ``scale`` of the area; ``crop`` squashes and takes a random crop (CDTrans);
    ``center`` squashes and takes the centre (VisDA); ``shift`` is the evaluation view, translated by up to an
    eighth; ``none`` is that as it is. ``flip``: all but ``none`` are mirrored with probability one half. The
    strong view is a weak one after RandAugment and cutout.

    The test view is the recipe's one evaluation view (models/preprocess.py, ``inputs.crop_mode``), which the
    prediction stage sees too.
    """
    inputs = with_inputs(inputs)
    weak = WeakView(preset, inputs, flip, scale)
    return {"test": Evaluated(inputs), "weak": weak, "strong": StrongView(weak)}


def preparation(preset: str, inputs: ClassifierConfig) -> Fixed | None:
    """What may be done to an image once, before it is kept in memory, without changing any of its views;
    None: nothing."""
    inputs = with_inputs(inputs)
    if preset not in SQUASHED or not inputs.resize or inputs.crop_mode != "squash":
        return None
    side, filter = inputs.resize, inputs.interpolation
    return Fixed(
        f"squash-{side}-{filter}", (side, side, inputs.in_channels), lambda image: _squashed(image, inputs)
    )


def _squashed(image: np.ndarray, inputs: ClassifierConfig) -> np.ndarray:
    return squash(match_channels(image, inputs.in_channels), inputs.resize, inputs.interpolation)


@dataclass(frozen=True)
class Evaluated:
    """The deterministic view."""

    inputs: ClassifierConfig

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        return to_tensor(prepare_image(image, self.inputs))


@dataclass(frozen=True)
class WeakView:
    """Crop or shift, and flip; the evaluation preprocessing for ``none``."""

    preset: str
    inputs: ClassifierConfig
    flip: bool
    scale: tuple[float, float] = SCALE

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        return to_tensor(self.draw(image, np.random.default_rng(seed)))

    def draw(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (crop, crop, in_channels), with the numbers that ``rng`` gives."""
        out = self._placed(image, rng)
        mirrored = self.flip and self.preset != "none" and rng.random() < 0.5
        return out[:, ::-1] if mirrored else out

    def _placed(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        inputs = self.inputs
        if self.preset == "uda":
            return random_resized_crop(_squashed(image, inputs), inputs.crop, rng, self.scale)
        if self.preset == "crop":
            return random_crop(_squashed(image, inputs), inputs.crop, rng)
        if self.preset == "center":
            return prepare_image(squash(image, inputs.resize, inputs.interpolation), inputs)
        image = prepare_image(image, inputs)
        return shift(image, rng) if self.preset == "shift" else image


@dataclass(frozen=True)
class StrongView:
    """A weak view, then RandAugment and cutout, all from one seed."""

    weak: WeakView

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        out = to_pil(np.ascontiguousarray(self.weak.draw(image, rng)))
        return to_tensor(from_pil(randaugment(out, rng)))


def random_crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of uint8 (H, W, C); images that are smaller than ``side`` are enlarged to it first."""
    if min(image.shape[:2]) < side:
        image = squash(image, side)
    height, width = image.shape[:2]
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return image[top : top + side, left : left + side]


def random_resized_crop(
    image: np.ndarray, side: int, rng: np.random.Generator, scale: tuple[float, float] = SCALE
) -> np.ndarray:
    """A random part of uint8 (H, W, C), bilinear to (side, side, C); the whole centre where ten tries fit
    nowhere."""
    height, width = image.shape[:2]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            break
    else:
        w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
        top, left = (height - h) // 2, (width - w) // 2
    part = image[top : top + h, left : left + w]
    return from_pil(to_pil(np.ascontiguousarray(part)).resize((side, side), Image.Resampling.BILINEAR))


def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Translate by up to an eighth of each side, black where nothing comes in."""
    height, width = image.shape[:2]
    dy, dx = (int(rng.integers(-(n // 8), n // 8 + 1)) for n in (height, width))
    out = np.zeros_like(image)
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return out


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 or 3) as a grey or RGB picture."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def from_pil(picture: Image.Image) -> np.ndarray:
    """A grey or RGB picture as uint8 (H, W, 1 or 3)."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, C) -> (C, H, W)."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())

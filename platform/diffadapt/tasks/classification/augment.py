"""Training augmentations for classifiers, one image at a time and a function of (image, seed) only (SDA Table
7)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.preprocess import match_channels, prepare_image
from diffadapt.train.config import FitConfig

Augment = Callable[[np.ndarray, int], torch.Tensor]


def make_augment(config: FitConfig, inputs: ClassifierConfig) -> Augment:
    """``augment(image uint8 (H, W, C), seed)`` -> (in_channels, crop, crop): uint8, or float32 already
    normalised.

    Only ``transformer`` returns floats, because RandomErasing fills with noise in normalised units. ``none``
    is the evaluation preprocessing; ``flip`` holds for all others. Grey images go through RandAugment as grey
    RGB.
    """
    inputs = with_inputs(inputs)
    if config.augment == "none":
        return lambda image, seed: _to_tensor(prepare_image(image, inputs))
    if config.augment == "shift":
        return lambda image, seed: _shift(
            prepare_image(image, inputs), np.random.default_rng(seed), config.flip
        )
    return _Timm(config, inputs)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _shift(image: np.ndarray, rng: np.random.Generator, flip: bool) -> torch.Tensor:
    """Translate by up to an eighth of each side, black where nothing comes in; mirror with probability one
    half."""
    height, width = image.shape[:2]
    dy, dx = (int(rng.integers(-(n // 8), n // 8 + 1)) for n in (height, width))
    out = np.zeros_like(image)
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return _to_tensor(out[:, ::-1] if flip and rng.random() < 0.5 else out)


class _Timm:
    """timm's RandomResizedCrop pipelines; they draw from the global generators, which are set to the seed and
    put back."""

    def __init__(self, config: FitConfig, inputs: ClassifierConfig):
        from timm.data import create_transform

        self.channels = inputs.in_channels
        self.floats = config.augment == "transformer"
        mean, std = (v * 3 if len(v) == 1 else v for v in (inputs.mean, inputs.std))
        shared = dict(
            input_size=inputs.crop, is_training=True, scale=(0.08, 1.0), hflip=0.5 if config.flip else 0.0,
            color_jitter=None, mean=mean, std=std,
        )  # fmt: skip
        if self.floats:
            self.transform = create_transform(
                **shared,
                interpolation="bicubic",
                auto_augment="rand-m9-n2-mstd0.5-inc1",
                re_prob=0.25,
                re_mode="pixel",
            )
        else:
            self.transform = create_transform(**shared, interpolation="bilinear", normalize=False)

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        with _seeded(seed):
            out = self.transform(Image.fromarray(match_channels(image, 3)))
        return out[:1] if self.channels == 1 else out


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])

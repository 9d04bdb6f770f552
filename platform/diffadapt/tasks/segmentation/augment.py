"""From a scene to what a segmenter is trained on: size, crop and flip shared by a pair, colour jitter of each
image by itself.

As the ZoDi authors' code does it: images are brought to the training size by Pillow's Lanczos filter and
label maps by its nearest neighbour, before the crop; brightness, contrast, saturation and hue follow in this
order, on the crop, through Pillow's operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Augmented(Protocol):
    """The settings of a training that are about augmentation."""

    @property
    def crop(self) -> tuple[int, int]: ...
    @property
    def flip(self) -> bool: ...
    @property
    def jitter(self) -> tuple[float, float, float, float]: ...


class Draw(NamedTuple):
    """What is random in one pair: the crop's place as fractions of its range, whether it is mirrored, eight
    jitter draws in -1..1."""

    top: float
    left: float
    mirrored: bool
    jitter: tuple[float, ...]


def draw(seed: int) -> Draw:
    """The random choices of one pair, a function of the seed alone, whatever the method or the settings use
    of them."""
    values = np.random.default_rng(seed).random(11)
    return Draw(values[0], values[1], bool(values[2] < 0.5), tuple(2 * values[3:] - 1))


class PairAugment:
    """Crop, flip and jitter of ``training`` for images of one size."""

    def __init__(self, training: Augmented):
        self.crop, self.flip, self.jitter = training.crop, training.flip, training.jitter

    def __call__(
        self, images: Sequence[np.ndarray | None], annotation: np.ndarray, seed: int
    ) -> tuple[list[np.ndarray | None], np.ndarray]:
        """The pair ``images`` (uint8 (H, W, 3), None: left out) and its labels (H, W), augmented: uint8 (h,
        w, 3) each and (h, w).

        An image's jitter does not depend on whether the other one is there.
        """
        chosen = draw(seed)
        made = [
            None if x is None else self._jittered(self._placed(x, chosen), chosen.jitter[4 * i : 4 * i + 4])
            for i, x in enumerate(images)
        ]
        return made, np.ascontiguousarray(self._placed(annotation, chosen))

    def _placed(self, array: np.ndarray, chosen: Draw) -> np.ndarray:
        if any(self.crop):
            (height, width), (h, w) = array.shape[:2], self.crop
            top, left = int(chosen.top * (height - h + 1)), int(chosen.left * (width - w + 1))
            array = array[top : top + h, left : left + w]
        return array[:, ::-1] if self.flip and chosen.mirrored else array

    def _jittered(self, image: np.ndarray, draws: Sequence[float]) -> np.ndarray:
        from torchvision.transforms import functional as F

        if not any(self.jitter):
            return np.ascontiguousarray(image)
        picture = Image.fromarray(np.ascontiguousarray(image))
        brightness, contrast, saturation, hue = (
            d * width for d, width in zip(draws, self.jitter, strict=True)
        )
        if self.jitter[0]:
            picture = F.adjust_brightness(picture, max(0.0, 1 + brightness))
        if self.jitter[1]:
            picture = F.adjust_contrast(picture, max(0.0, 1 + contrast))
        if self.jitter[2]:
            picture = F.adjust_saturation(picture, max(0.0, 1 + saturation))
        if self.jitter[3]:
            picture = F.adjust_hue(picture, hue)
        return np.asarray(picture)

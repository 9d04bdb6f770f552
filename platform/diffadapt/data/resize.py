"""Resize and centre crop of uint8 images, as torchvision does on PIL images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

EXACT = 1 << 12
"""Scales that are multiples of 1 / EXACT, of sides up to EXACT, are exact in single precision, as Pillow has
them."""


def centre_crop_resize(
    image: np.ndarray, resize: int, crop: int, interpolation: str = "bicubic"
) -> np.ndarray:
    """uint8 HWC -> uint8 (crop, crop, C): short edge to ``resize`` (0: left as it is), then the centre
    ``crop`` square. ``interpolation``: the name of one of Pillow's filters.

    A crop larger than the image pads with black, as torchvision's CenterCrop does.
    """
    height, width = image.shape[:2]
    if resize and min(height, width) != resize:
        if height <= width:
            size = (int(resize * width / height), resize)
        else:
            size = (resize, int(resize * height / width))
        image = _resized(image, size, interpolation, crop)
        height, width = image.shape[:2]
    if height < crop or width < crop:
        top, left = max((crop - height) // 2, 0), max((crop - width) // 2, 0)
        image = np.pad(
            image, ((top, max(crop - height - top, 0)), (left, max(crop - width - left, 0)), (0, 0))
        )
        height, width = image.shape[:2]
    top, left = int(round((height - crop) / 2.0)), int(round((width - crop) / 2.0))
    return np.ascontiguousarray(image[top : top + crop, left : left + crop])


def squash(image: np.ndarray, side: int, interpolation: str = "bicubic", crop: int = 0) -> np.ndarray:
    """uint8 (H, W, C) -> (side, side, C) without regard to proportions; side 0: the image as it is. Who takes
    only the centre ``crop`` square of it says so: the rest need not be worked out."""
    if not side or image.shape[:2] == (side, side):
        return image
    return _resized(image, (side, side), interpolation, crop)


def bordered(
    image: np.ndarray, resize: int, crop: int, interpolation: str, fill: Sequence[int]
) -> np.ndarray:
    """uint8 HWC -> uint8 (crop, crop, C): long edge to ``resize``, a border of the colour ``fill`` where that
    leaves less than ``crop``, then the centre (timm's ResizeKeepRatio and CenterCropOrPad)."""
    ratio = max(image.shape[:2]) / resize
    height, width = (round(n / ratio) for n in image.shape[:2])
    image = _resized(image, (width, height), interpolation)
    canvas = np.empty((max(height, crop), max(width, crop), image.shape[2]), np.uint8)
    canvas[:] = fill
    top, left = max((crop - height) // 2, 0), max((crop - width) // 2, 0)
    canvas[top : top + height, left : left + width] = image
    return centre_crop_resize(canvas, 0, crop)


def _resized(image: np.ndarray, size: tuple[int, int], interpolation: str, crop: int = 0) -> np.ndarray:
    """At ``size`` (width, height); with ``crop`` perhaps without what its centre square leaves out."""
    picture = _pil(image)
    parts = [_part(before, after, crop) for before, after in zip(picture.size, size, strict=True)]
    (left, right, width), (top, bottom, height) = parts
    box = (left, top, right, bottom)
    out = np.array(picture.resize((width, height), Image.Resampling[interpolation.upper()], box=box))
    return out[..., None] if out.ndim == 2 else out


def _part(before: int, after: int, crop: int) -> tuple[float, float, int]:
    """Where the centre ``crop`` of ``after`` pixels comes from among ``before`` ones, and how many there are;
    all of them where Pillow does not have the scale exactly, so that no bit changes."""
    scale = before / after
    if not 0 < crop < after or (scale * EXACT) % 1 or before > EXACT:
        return 0, before, after
    start = int(round((after - crop) / 2.0))
    return start * scale, (start + crop) * scale, crop


def _pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)

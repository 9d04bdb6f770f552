"""Short-edge resize and centre crop of uint8 images, bicubic, as torchvision does on PIL images."""

from __future__ import annotations

import numpy as np
from PIL import Image


def centre_crop_resize(image: np.ndarray, resize: int, crop: int) -> np.ndarray:
    """uint8 HWC -> uint8 (crop, crop, C): short edge to ``resize`` (0: left as it is), then the centre
    ``crop`` square.

    A crop larger than the image pads with black, as torchvision's CenterCrop does.
    """
    height, width = image.shape[:2]
    if resize and min(height, width) != resize:
        if height <= width:
            size = (int(resize * width / height), resize)
        else:
            size = (resize, int(resize * height / width))
        image = np.asarray(_pil(image).resize(size, Image.Resampling.BICUBIC))
        if image.ndim == 2:
            image = image[..., None]
        height, width = image.shape[:2]
    if height < crop or width < crop:
        top, left = max((crop - height) // 2, 0), max((crop - width) // 2, 0)
        image = np.pad(
            image, ((top, max(crop - height - top, 0)), (left, max(crop - width - left, 0)), (0, 0))
        )
        height, width = image.shape[:2]
    top, left = int(round((height - crop) / 2.0)), int(round((width - crop) / 2.0))
    return np.ascontiguousarray(image[top : top + crop, left : left + crop])


def _pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)

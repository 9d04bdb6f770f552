"""Scenes brought to another size: images by area (bicubic where they grow), label maps and colour maps by the
nearest pixel."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) at ``size`` (height, width). A side that shrinks is averaged over the area of each
    pixel, as OpenCV's INTER_AREA does."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), method))


def resize_nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) at ``size``; every value was there before. Pixel centres decide, as in
    Pillow."""
    height, width = size
    if labels.shape[:2] == (height, width):
        return labels
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.int64)
    return np.ascontiguousarray(labels[rows[:, None], columns[None, :]])


def scale_objects(
    objects: list[dict] | None, before: tuple[int, int], after: tuple[int, int]
) -> list[dict] | None:
    """Boxes (x1, y1, x2, y2) of an image of size ``before`` (height, width) in pixels of the same image at
    ``after``."""
    if objects is None or before == after:
        return objects
    y, x = after[0] / before[0], after[1] / before[1]
    return [
        {**o, "bbox": [o["bbox"][0] * x, o["bbox"][1] * y, o["bbox"][2] * x, o["bbox"][3] * y]}
        for o in objects
    ]

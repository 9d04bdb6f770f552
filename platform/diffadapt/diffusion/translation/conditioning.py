"""The picture of a layout that a ControlNet is shown, and resizing by area."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from diffadapt.core.errors import ItemError

if TYPE_CHECKING:
    from diffadapt.data.scenes.scene import Scene
    from diffadapt.data.scenes.table import ClassTable


def conditioning(scene: Scene, classes: ClassTable, palette: str, size: tuple[int, int]) -> np.ndarray:
    """float32 (h, w, 3) in [0, 1]: the label map of ``scene`` in colours, resized by area to ``size`` = (h,
    w).

    Palette 'cityscapes' is the scene's raw colour map where it has one (void colours included), as ZoDi's
    authors feed it; otherwise the label map is painted. Raises ItemError for a scene without a layout.
    """
    colours = scene.colours if palette == "cityscapes" else None
    if colours is None:
        if scene.annotation is None:
            raise ItemError("the scene has no label map, from which the transfer takes the layout")
        from diffadapt.data.scenes.palettes import paint

        colours = paint(scene.annotation, classes, palette)
    return resize_area(colours, size).astype(np.float32) / np.float32(255)


def resize_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, C) to (h, w, C): each new pixel is the mean of the area that it covers, as OpenCV's
    INTER_AREA.

    A mean that lies between two levels is rounded up when both sides are halved, else to the even level
    (OpenCV's rule). Where a side grows, pixels are repeated.
    """
    (height, width), (h, w) = image.shape[:2], size
    if (height, width) == (h, w):
        return image
    if h > height or w > width:
        return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.NEAREST))
    if (height, width) == (2 * h, 2 * w):
        blocks = image.reshape(h, 2, w, 2, -1).sum(axis=(1, 3), dtype=np.uint16)
        return ((blocks + 2) >> 2).astype(np.uint8)
    mean = np.einsum("ij,jkc->ikc", _cover(height, h), image.astype(np.float32), optimize=True)
    mean = np.einsum("kj,ijc->ikc", _cover(width, w), mean, optimize=True)
    return np.rint(mean).clip(0, 255).astype(np.uint8)


def _cover(old: int, new: int) -> np.ndarray:
    """float32 (new, old): the share that each old pixel has in the mean of a new one."""
    edges = np.arange(new + 1, dtype=np.float64) * old / new
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old, dtype=np.float64)[None, :]
    overlap = np.minimum(right, pixel + 1) - np.maximum(left, pixel)
    return (np.maximum(overlap, 0) * new / old).astype(np.float32)


def picture(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) to (h, w, 3): by area where it shrinks, by Lanczos where a side grows."""
    if size[0] <= image.shape[0] and size[1] <= image.shape[1]:
        return resize_area(image, size)
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))

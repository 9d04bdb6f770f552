"""ADM's input preprocessing: any image -> the square size that the diffusion network was trained at. Knows no
torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffadapt.core.errors import DataError


def prepare(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """``image`` as uint8 (size, size, C), C = 1 or 3.

    While the shorter side is at least twice ``size`` the image is halved with a box filter; then the shorter
    side is brought to ``size`` (up or down) with a bicubic filter, and the centre is cropped.

    Args:
        image: a PIL image of mode L or RGB, or a uint8 array (H, W), (H, W, 1) or (H, W, 3).
        size: side of the result in pixels.

    Raises DataError for another mode, type or an empty image.
    """
    picture = image if isinstance(image, Image.Image) else _to_pil(image)
    if picture.mode not in ("L", "RGB"):
        raise DataError(
            f"An image of mode {picture.mode} cannot be prepared for a diffusion network; convert it to RGB"
            " or L first."
        )
    if min(picture.size) < 1 or size < 1:
        raise DataError(f"An image of {picture.size} pixels cannot be brought to {size} pixels.")
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    wanted = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(wanted, resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _to_pil(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8:
        raise DataError(f"An image array must hold uint8 values, not {image.dtype}.")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
        return Image.fromarray(np.ascontiguousarray(image))
    raise DataError(f"An image array must have shape (H, W), (H, W, 1) or (H, W, 3), not {image.shape}.")

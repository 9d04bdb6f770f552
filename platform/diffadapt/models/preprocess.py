"""From a uint8 image to a classifier's input: resize, crop, channels, normalisation, as the model's own
configuration or the recipe has them (SDA section 5: bicubic, centre crop)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.data.resize import bordered, centre_crop_resize, squash
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs


def prepare_image(image: np.ndarray, config: ClassifierConfig) -> np.ndarray:
    """uint8 (H, W, C) of any size -> uint8 (crop, crop, in_channels).

    This is the one evaluation view: ``config.crop_mode`` 'center' brings the short edge to ``config.resize``,
    'squash' both edges, 'border' the long one (the rest is of the mean colour); then the centre is cropped.
    That happens even where the image already has the crop's size (``reference``, as the authors do); with
    ``native`` such an image stays as it is. As timm.data's transforms_imagenet_eval and, for 'squash',
    Transfer-Learning-Library's get_val_transform. Raises DataError for another type, shape or channel count.
    """
    config = with_inputs(config)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise DataError(f"An image is {image.dtype} {image.shape}; uint8 (height, width, 1 or 3) is needed.")
    fits = image.shape[:2] == (config.crop, config.crop)
    if not (fits and (config.eval_resize == "native" or not config.resize)):
        image = _viewed(image, config)
    return match_channels(image, config.in_channels)


def _viewed(image: np.ndarray, config: ClassifierConfig) -> np.ndarray:
    resize, crop, interpolation = config.resize, config.crop, config.interpolation
    if config.crop_mode == "squash":
        return centre_crop_resize(squash(image, resize, interpolation, crop), 0, crop)
    if config.crop_mode == "border" and resize:
        fill = [round(255 * v) for v in config.mean][: image.shape[2]]
        return bordered(image, resize, crop, interpolation, fill)
    return centre_crop_resize(image, resize, crop, interpolation)


def match_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, 1 or 3) -> (H, W, channels): grey is repeated, colour becomes ITU-R 601 luma."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    red, green, blue = (image[..., c].astype(np.uint32) for c in range(3))
    # Pillow's fixed-point luma, so that arrays and decoded files agree to the bit.
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def normalise(images: torch.Tensor, config: ClassifierConfig) -> torch.Tensor:
    """uint8 (B, C, H, W) in 0..255 -> float32 (x / 255 - mean) / std on the same device.

    Raises RecipeError if mean and std do not have one value a channel.
    """
    config = with_inputs(config)
    channels = images.shape[1]
    if len(config.mean) != channels or len(config.std) != channels:
        raise RecipeError(
            f"The classifier takes {channels} channel(s), but mean has {len(config.mean)} and std"
            f" {len(config.std)} values; give one a channel."
        )
    mean = torch.tensor(config.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(config.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def to_input(
    images: Sequence[np.ndarray], config: ClassifierConfig, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """uint8 (H, W, C) images of any sizes -> normalised float32 (B, in_channels, crop, crop) on
    ``device``."""
    config = with_inputs(config)
    return stacked_input([prepare_image(image, config) for image in images], config, device)


def stacked_input(
    prepared: Sequence[np.ndarray], config: ClassifierConfig, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """The same of images that :func:`prepare_image` made."""
    stacked = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)
    return normalise(stacked.to(device), config)

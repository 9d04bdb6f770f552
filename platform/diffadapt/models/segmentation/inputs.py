"""Images as the input of a segmentation network, and label maps from its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from diffadapt.compute.precision import autocast, float32_mode
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig


def to_input(
    images: Sequence[np.ndarray], config: SegmenterConfig, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """uint8 (H, W, 3) images of any sizes -> normalised float32 (B, 3, *config.size), resized as in training
    (Lanczos)."""
    return normalise(stacked([fit_image(image, config.size) for image in images]).to(device), config)


@torch.inference_mode()
def logits(
    net: torch.nn.Module, config: SegmenterConfig, images: Sequence[np.ndarray], device: str | torch.device
) -> torch.Tensor:
    """The network's output (B, C, *config.size) for uint8 (H, W, 3) images of any sizes, in
    ``config.precision``."""
    with float32_mode(config.precision), autocast(torch.device(device), config.precision):
        return net(to_input(images, config, device))[0]


@torch.inference_mode()
def segment(
    net: torch.nn.Module, config: SegmenterConfig, images: Sequence[Image.Image | np.ndarray]
) -> list[np.ndarray]:
    """uint8 label maps of RGB images, each at its image's own size; class numbers, the number of classes
    standing for void."""
    device = next(net.parameters()).device
    arrays = [np.asarray(image) for image in images]
    labels = []
    for start in range(0, len(arrays), config.batch_size):
        batch = arrays[start : start + config.batch_size]
        found = logits(net, config, batch, device).argmax(1).to(torch.uint8).cpu().numpy()
        for image, array in zip(found, batch, strict=True):
            labels.append(fit_labels(image, array.shape[:2]))
    return labels


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (*size, 3) by Lanczos; as it is where it has that size."""
    return _fit(image, size, Image.Resampling.LANCZOS)


def fit_labels(annotation: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) of class numbers -> uint8 ``size`` by the nearest pixel."""
    return _fit(annotation, size, Image.Resampling.NEAREST)


def _fit(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    if array.shape[:2] == tuple(size):
        return array
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((size[1], size[0]), how))


def stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, 3) arrays of one size -> uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def normalise(images: torch.Tensor, config: SegmenterConfig) -> torch.Tensor:
    """uint8 (B, 3, h, w) -> float32 (x / 255 - mean) / std on the same device."""
    config = with_normalisation(config)
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        for v in (config.mean, config.std)
    )
    return (images.float() / 255 - mean) / std

"""Images as the input of a segmentation network, and label maps from its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.train.precision import autocast, float32_mode
from diffadapt.train.segmentation_augment import fit_image, fit_labels, normalise, stacked


def to_input(images: Sequence[np.ndarray], config: SegmenterConfig, device: str | torch.device = "cpu") -> torch.Tensor:
    """uint8 (H, W, 3) images of any sizes -> normalised float32 (B, 3, *config.size), resized as in training (Lanczos)."""
    return normalise(stacked([fit_image(image, config.size) for image in images]).to(device), config)


@torch.inference_mode()
def logits(net: torch.nn.Module, config: SegmenterConfig, images: Sequence[np.ndarray], device: str | torch.device) -> torch.Tensor:
    """The network's output (B, C, *config.size) for uint8 (H, W, 3) images of any sizes, in ``config.precision``."""
    with float32_mode(config.precision), autocast(torch.device(device), config.precision):
        return net(to_input(images, config, device))[0]


@torch.inference_mode()
def segment(net: torch.nn.Module, config: SegmenterConfig, images: Sequence[Image.Image | np.ndarray]) -> list[np.ndarray]:
    """uint8 label maps of RGB images, each at its image's own size; class numbers, the number of classes standing for void."""
    device = next(net.parameters()).device
    arrays = [np.asarray(image) for image in images]
    labels = []
    for start in range(0, len(arrays), config.batch_size):
        batch = arrays[start : start + config.batch_size]
        found = logits(net, config, batch, device).argmax(1).to(torch.uint8).cpu().numpy()
        for image, array in zip(found, batch, strict=True):
            labels.append(fit_labels(image, array.shape[:2]))
    return labels

"""Images as the input of a segmentation network, and label maps from its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.train.precision import autocast, float32_mode


def to_input(images: Sequence[np.ndarray], config: SegmenterConfig, device: str | torch.device = "cpu") -> torch.Tensor:
    """uint8 (H, W, 3) images of any sizes -> normalised float32 (B, 3, *config.size), resized bilinearly (antialiased)."""
    height, width = config.size
    resized = [np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR)) if i.shape[:2] != (height, width) else i for i in images]
    x = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (config.mean, config.std))
    return (x - mean) / std


@torch.inference_mode()
def segment(net: torch.nn.Module, config: SegmenterConfig, images: Sequence[Image.Image | np.ndarray]) -> list[np.ndarray]:
    """uint8 label maps of RGB images, each at its image's own size; class numbers, the number of classes standing for void."""
    device = next(net.parameters()).device
    arrays = [np.asarray(image) for image in images]
    labels = []
    for start in range(0, len(arrays), config.batch_size):
        batch = arrays[start : start + config.batch_size]
        with float32_mode(config.precision), autocast(device, config.precision):
            found = net(to_input(batch, config, device))[0].argmax(1).to(torch.uint8).cpu().numpy()
        for image, array in zip(found, batch, strict=True):
            height, width = array.shape[:2]
            labels.append(np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)))
    return labels

"""Between stored 8-bit images and what the diffusion network sees, as the authors convert them."""

from __future__ import annotations

import torch


def to_network(images: torch.Tensor) -> torch.Tensor:
    """uint8 (any shape) -> float32 in [-1, 1]: x / 127.5 - 1."""
    return images.float() / 127.5 - 1.0


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Float images, nominally in [-1, 1] -> uint8 in the same shape: ((clamp(x) + 1) / 2) 255 + 0.5,
    truncated."""
    return ((x.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5).clamp(0, 255).to(torch.uint8)

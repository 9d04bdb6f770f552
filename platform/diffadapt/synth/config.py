"""Class-conditional synthesis settings (SDA section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution


@dataclass(frozen=True)
class SynthConfig:
    weights: str = "facebook/DiT-XL-2-256"
    """A DiTPipeline folder or hub id, ``embedded:digits-dit``, or ``train`` (train one on the source images)."""
    images_per_class: int = 50
    guidance: float = 1.0
    """Classifier-free guidance; at 1.0 the null half is never computed."""
    steps: int = 250
    sampler: Literal["ddpm", "ddim", "dpmsolver++"] = "ddpm"
    guide_channels: Literal["first3", "all"] = "first3"
    """Which latent channels guidance acts on; the original DiT guides the first three."""
    output: Literal["truncate", "round"] = "truncate"
    """uint8 = truncate(127.5 x + 128), as the DiT authors store images, or rounding to nearest."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    images_per_shard: int = 1
    """Consecutive images of each class in one shard."""
    classes_per_shard: int = 64
    """Consecutive classes in one shard; a shard has images_per_shard x classes_per_shard images."""
    batch_size: int = execution(64)
    compile: bool = execution(False)

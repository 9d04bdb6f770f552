"""Training of an object detector on source and transferred images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffadapt.core.config import execution

METHODS = ("source_only", "transferred_only", "both")
"""Which images a detector is trained on."""


@dataclass(frozen=True)
class DetectionTraining:
    """Loss = detector losses on x + detector losses on x', both with the source's boxes (- similarity * mean
    cos of their features)."""

    similarity: float = 0.0
    """Weight of ZoDi's feature similarity between x and x', of the method 'both'; 0: none."""
    epochs: int = 12
    batch_size: int = 4
    """Pairs in a step, over all workers."""
    flip: bool = True
    """Half of the pairs are mirrored, x, x' and boxes together."""
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.3)
    """Brightness, contrast, saturation, hue; drawn for x and x' independently."""
    lr: float = 5e-3
    head_lr: float = 1.0
    """Factor on the rate of what is not backbone."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    """Linear; then the rate falls along a half cosine to 0."""
    clip_norm: float | None = 10.0
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = execution(200)

    crop: ClassVar[tuple[int, int]] = (0, 0)
    """Boxes are trained on whole images."""
    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {
        "similarity": (0, None),
        "epochs": (1, None),
        "batch_size": (1, None),
        "jitter": (0, None),
        "lr": (0, None),
        "head_lr": (0, None),
        "momentum": (0, 1),
        "weight_decay": (0, None),
        "warmup_steps": (0, None),
        "clip_norm": (1e-9, None),
        "seed": (0, None),
        "checkpoint_every": (1, None),
    }

"""Training of an object detector on source and transferred images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.ranges import AtLeast, Fraction, Natural, NonNegative, Positive, Seed

METHODS = ("source_only", "transferred_only", "both")
"""Which images a detector is trained on."""


@dataclass(frozen=True)
class DetectionTraining:
    """Loss = detector losses on x + detector losses on x', both with the source's boxes (- similarity * mean
    cos of their features)."""

    similarity: NonNegative = 0.0
    """Weight of ZoDi's feature similarity between x and x', of the method 'both'; 0: none."""
    epochs: Positive = 12
    batch_size: Positive = 4
    """Pairs in a step, over all workers."""
    flip: bool = True
    """Half of the pairs are mirrored, x, x' and boxes together."""
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.5, 0.5, 0.5, 0.3)
    """Brightness, contrast, saturation, hue; drawn for x and x' independently."""
    lr: NonNegative = 5e-3
    head_lr: NonNegative = 1.0
    """Factor on the rate of what is not backbone."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    warmup_steps: Natural = 100
    """Linear; then the rate falls along a half cosine to 0."""
    clip_norm: Annotated[float, AtLeast(1e-09)] | None = 10.0
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    seed: Seed = 0
    checkpoint_every: Positive = execution(200)

    crop: ClassVar[tuple[int, int]] = (0, 0)
    """Boxes are trained on whole images."""

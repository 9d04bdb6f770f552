"""Training of a segmentation network on source and transferred images (ZoDi section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import AtLeast, Fraction, Natural, NonNegative, Positive, Seed


@dataclass(frozen=True)
class SegmentTraining:
    """The authors' settings. Loss = CE(f(x), y) + CE(f(x'), y) - similarity * mean cos(GAP(h(x)),
    GAP(h(x')))."""

    similarity: NonNegative = 0.1
    epochs: Positive = 100
    batch_size: Positive = 4
    """Pairs in a step, over all workers."""
    crop: tuple[Natural, Natural] = (384, 768)
    """(height, width) of the random crop that x and x' share; (0, 0): none."""
    flip: bool = True
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.5, 0.5, 0.5, 0.3)
    """Brightness, contrast, saturation, hue; drawn for x and x' independently."""
    lr: NonNegative = 1e-3
    head_lr: NonNegative = 1.0
    """Factor on the rate of what is not backbone (1: as the authors)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    power: NonNegative = 0.9
    """Of the polynomial decay, stepped once an epoch."""
    clip_norm: Annotated[float, AtLeast(1e-09)] | None = None
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    sync_batch_norm: bool = False
    """Several workers take the statistics of the global batch, so that any number of them trains as one does.
    """
    select: Literal["last", "best_source", "oracle"] = "last"
    """last; best_source: the epoch with the best mean IoU on the source's test images; oracle: on the
    target's labels (stamped)."""
    candidates: Positive = 10
    """At most so many epochs are tried, evenly spread, the last among them."""
    seed: Seed = 0
    checkpoint_every: Positive = execution(200)


def check_jitter(jitter: tuple[float, float, float, float]) -> None:
    """RecipeError for a hue beyond what the circle of hues has."""
    if jitter[3] > 0.5:
        raise RecipeError(
            f"training.jitter has a hue of {jitter[3]:g}, but half of the circle of hues, 0.5, is all"
            " there is."
        )

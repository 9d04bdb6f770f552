"""Training of a segmentation network on source and transferred images (ZoDi section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution
from diffadapt.core.errors import RecipeError


@dataclass(frozen=True)
class SegmentTraining:
    """The authors' settings. Loss = CE(f(x), y) + CE(f(x'), y) - similarity * mean cos(GAP(h(x)),
    GAP(h(x')))."""

    similarity: float = 0.1
    epochs: int = 100
    batch_size: int = 4
    """Pairs in a step, over all workers."""
    crop: tuple[int, int] = (384, 768)
    """(height, width) of the random crop that x and x' share; (0, 0): none."""
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.3)
    """Brightness, contrast, saturation, hue; drawn for x and x' independently."""
    lr: float = 1e-3
    head_lr: float = 1.0
    """Factor on the rate of what is not backbone (1: as the authors)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    """Of the polynomial decay, stepped once an epoch."""
    clip_norm: float | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    sync_batch_norm: bool = False
    """Several workers take the statistics of the global batch, so that any number of them trains as one does.
    """
    select: Literal["last", "best_source", "oracle"] = "last"
    """last; best_source: the epoch with the best mean IoU on the source's test images; oracle: on the
    target's labels (stamped)."""
    candidates: int = 10
    """At most so many epochs are tried, evenly spread, the last among them."""
    seed: int = 0
    checkpoint_every: int = execution(200)


def check_jitter(jitter: tuple[float, float, float, float]) -> None:
    """RecipeError for a hue beyond what the circle of hues has."""
    if jitter[3] > 0.5:
        raise RecipeError(
            f"training.jitter has a hue of {jitter[3]:g}, but half of the circle of hues, 0.5, is all"
            " there is."
        )

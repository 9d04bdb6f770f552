"""Settings of the test-time-adaptation baselines (SDA section 5, Tables 1 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution
from diffadapt.core.ranges import NonNegative, Positive


@dataclass(frozen=True)
class MemoConfig:
    """MEMO: weights reset per image, one step on the entropy of the mean softmax over augmented views."""

    views: Positive = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd for convolutional networks (lr 2.5e-4, wd 0), adamw for transformers (lr 1e-5, wd 0.01)."""
    lr: NonNegative = 2.5e-4
    weight_decay: NonNegative = 0.0
    steps: Positive = 1
    bn_prior: NonNegative = 16.0
    """Batch-norm statistics are bn_prior/(bn_prior+1) running + 1/(bn_prior+1) batch."""
    flip: bool = True
    limit: Positive | None = None
    """Images per corruption and severity; None: all. A limited row says so."""
    chunk: Positive = execution(64)


@dataclass(frozen=True)
class TentConfig:
    """Tent: minimise the mean entropy online, one step a batch, normalisation affine parameters only."""

    batch_size: Positive = 64
    mixed_classes: bool = True
    mixed_types: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: NonNegative = 2.5e-4
    momentum: float = 0.9
    steps: Positive = 1
    limit: Positive | None = None

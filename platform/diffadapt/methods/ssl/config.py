"""Settings of stage 2 (Adapt Anything section 3: intra-domain transfer): split, training, and each method's
own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffadapt.core.config import Precision, added, by_device, execution
from diffadapt.core.discover import extended
from diffadapt.core.ranges import Between, Fraction, NonNegative, Positive
from diffadapt.methods.discover import chosen, identity, methods
from diffadapt.methods.ssl.base import SslMethod

METHODS: dict[str, type] = methods("ssl", SslMethod).all()


@dataclass(frozen=True)
class SplitConfig:
    """How stage 1's predictions part the target into confident (pseudo-labelled) and unconfident images."""

    rule: Literal["top", "threshold"] = "top"
    """top: of each predicted class the ``fraction`` with the largest max softmax; threshold: max softmax >=
    ``threshold``."""
    fraction: Annotated[float, Between(1e-06, 1)] = 0.5
    threshold: Fraction = 0.9
    shares: Literal["predicted", "estimated"] = added("predicted")
    """What the ``fraction`` is taken of. predicted: every predicted class, as published; estimated: the
    images that a class is estimated to have (metrics/class_shares), so that a class that is not in the target
    gets none."""
    warn_confident: Fraction = 0.1
    """Warn before stage 2 when a smaller fraction of the target than this has max softmax >= ``threshold``.
    """
    warn_coverage: Fraction = 0.8
    """Warn when a smaller fraction of the classes than this is predicted at all."""


@dataclass(frozen=True)
class SslTraining:
    """Stage 2: semi-supervised learning on the target alone, starting from stage 1."""

    method: str = "fixmatch"
    """A file of methods/ssl."""
    batch_size: Positive = 32
    epochs: Positive = 10
    steps_per_epoch: Positive = 500
    lr: NonNegative | None = None
    """Overrides the method's own learning rate."""
    augment: Literal["uda", "crop", "shift", "none"] = "uda"
    """The weak view, as in stage 1; the strong one adds RandAugment and cutout."""
    scale: tuple[Fraction, Fraction] = (0.5, 1.0)
    """Smallest and largest part of the area that RandomResizedCrop takes (augment uda): FixMatch's on these
    benchmarks (Transfer-Learning-Library), less cropped than stage 1's .08-1."""
    flip: bool = True
    precision: Precision = by_device("bf16")
    """auto: fp32, on CUDA bf16."""
    sync_batch_norm: bool = False
    seed: int = 0
    checkpoint_every: Positive = execution(200)

    @property
    def chosen(self) -> Any:
        return chosen(self, "semi-supervised")

    def identity(self) -> dict[str, Any]:
        values = identity(self, "semi-supervised")
        if self.augment != "uda":
            values.pop("scale")
        return values


SslConfig: Any = extended("SslConfig", SslTraining, METHODS, __name__)

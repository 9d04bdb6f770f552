"""Settings of stage 1 (Adapt Anything section 3: inter-domain transfer): the training, and each method's
own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.discover import extended
from diffadapt.core.ranges import Natural, NonNegative, Positive
from diffadapt.methods.discover import chosen, identity, methods
from diffadapt.methods.uda.base import UdaMethod

METHODS: dict[str, type] = methods("uda", UdaMethod).all()
"""Method name -> its class."""


OWN = ("epochs", "steps_per_epoch", "batch_size")
"""What a method may state for itself, so that one recipe trains each as long as was published."""


@dataclass(frozen=True)
class UdaTraining:
    """Stage 1: unsupervised domain adaptation from the (synthetic) source to the unlabelled target."""

    method: str = "mcc"
    """A file of methods/uda."""
    batch_size: Positive = 32
    """Source images, and as many target images, of a step: the sum over ``execution.train_workers`` workers.
    """
    epochs: Positive = 20
    steps_per_epoch: Natural = 1000
    """0: one pass over the data, which is the larger set (CDTrans: the source, later the pairs)."""
    lr: NonNegative | None = None
    """Overrides the method's own learning rate."""
    sdat: NonNegative = 0.0
    """Radius of SAM on the task loss (SDAT, Rangwani et al. 2022; published 0.02 for CNNs); 0: off."""
    augment: Literal["uda", "crop", "center", "shift", "none"] = "uda"
    """uda: squash to ``resize``, RandomResizedCrop .08-1, flip; crop: random crop, flip (CDTrans, SymNets);
    center: centre crop, flip (VisDA); shift: translate by up to an eighth."""
    scale: ClassVar[tuple[float, float]] = (0.08, 1.0)
    """RandomResizedCrop's part of the area."""
    flip: bool = True
    precision: Precision = by_device("bf16")
    """auto: fp32, on CUDA bf16."""
    sync_batch_norm: bool = False
    """Batch statistics over all workers."""
    seed: int = 0
    checkpoint_every: Positive = execution(200)

    @property
    def chosen(self) -> Any:
        """The method with its settings."""
        return chosen(self, "UDA")

    def identity(self) -> dict[str, Any]:
        return identity(self, "UDA")


def stated(mine: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the length and batch that a method's fields state for the training, its other fields)."""
    return (
        {name: mine[name] for name in OWN if mine.get(name)},
        {name: value for name, value in mine.items() if name not in OWN},
    )


def settled(config: Any) -> Any:
    """``config`` with the length and batch that its method states for itself as those of the training."""
    mine = config.chosen
    own, _ = stated(vars(mine))
    return (
        replace(config, **own, **{config.method: replace(mine, **dict.fromkeys(OWN, 0))}) if own else config
    )


UdaConfig: Any = extended("UdaConfig", UdaTraining, METHODS, __name__)

"""What a semi-supervised method is (see methods/uda/base.py: the same rules hold). Imports no torch at the
top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from diffadapt.compute.progress import Pass, Progress
from diffadapt.core.ranges import Fraction, NonNegative, Positive

if TYPE_CHECKING:
    import torch
    from torch import nn


class SslBatch(NamedTuple):
    """One step's data on this rank. ``x`` (B, ...): a weak view of confident images, ``y`` int64 (B,) their
    pseudo-labels. ``weak`` and ``strong``: as many views (mu B, ...) of unconfident images as the method asks
    for; ``index`` int64 (mu B,): which unconfident images they are."""

    x: torch.Tensor
    y: torch.Tensor
    weak: tuple[torch.Tensor, ...]
    strong: tuple[torch.Tensor, ...]
    index: torch.Tensor


class SslNet(Protocol):
    """What a method's losses are given: called with views (B, ...) it gives logits (B, K)."""

    state: Any
    """The module that the method's ``build`` returned."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class SslMethod:
    """Base of all methods. ``net(x)`` gives logits (B, K); ``net.state`` is what :meth:`build` made."""

    lr: NonNegative = 0.003
    lr_gamma: NonNegative = 0.0004
    lr_decay: NonNegative = 0.75
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1e-3
    backbone_lr: NonNegative = 0.1
    """Rate of all but the head, relative to ``lr``."""
    mu: Positive = 1
    """Unconfident images for each confident one."""
    lambda_u: NonNegative = 1.0
    ema: Fraction = 0.999
    """Decay of the averaged weights, which predict; 0: none."""

    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {}
    version: ClassVar[int] = 1
    title: ClassVar[str] = ""
    weak_views: ClassVar[int] = 1
    strong_views: ClassVar[int] = 1
    uses_unlabelled: ClassVar[bool] = True
    batch_coupled: ClassVar[str] = ""

    def build(self, classes: int, unlabelled: int) -> nn.Module | None:
        """A module that holds the method's buffers for ``unlabelled`` images; None: it has no state."""
        return None

    def losses(self, net: SslNet, batch: SslBatch, progress: Progress) -> dict[str, torch.Tensor]:
        """Scalar losses; ``loss`` is minimised, all are logged."""
        raise NotImplementedError

    def passes(self) -> tuple[Pass, ...]:
        return (Pass(),)

    def lr_at(self, progress: Progress) -> float:
        return self.lr * (1.0 + self.lr_gamma * progress.step) ** -self.lr_decay

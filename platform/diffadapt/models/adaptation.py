"""The network that domain adaptation trains: backbone, bottleneck, and the modules of a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import SHARPNESS, Progress


class Method(Protocol):
    """What the network asks of a method (methods/uda/base.py says what each means)."""

    bottleneck: int

    def build(self, width: int, classes: int) -> dict[str, nn.Module]: ...

    def losses(self, net: Any, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]: ...

    def task_loss(self, net: Any, batch: PairBatch) -> torch.Tensor: ...

    def predict(self, net: Any, features: torch.Tensor) -> torch.Tensor: ...

    def parameter_groups(self, net: Any) -> list[dict[str, Any]]: ...


class AdaptationNetwork(nn.Module):
    """``backbone`` maps inputs to (B, width): a timm model without classifier, or Identity for cached
    features.

    The bottleneck is Linear-BatchNorm-ReLU (Transfer-Learning-Library's ImageClassifier); the modules that
    the method's ``build`` returns are attributes under their names (``head``, ``discriminator``, ...).
    ``forward(batch, progress)`` computes the method's losses, so that DistributedDataParallel sees every use
    of a weight; ``logits(x)`` predicts.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The method's modules, which nn.Module would type as tensors too."""

    def __init__(self, backbone: nn.Module, width: int, classes: int, method: Method):
        super().__init__()
        self.method, self.classes, self.width = method, classes, method.bottleneck or width
        self.backbone = backbone
        self.bottleneck = bottleneck(width, method.bottleneck)
        for name, module in method.build(self.width, classes).items():
            self.add_module(name, module)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) inputs -> (B, width)."""
        return self.bottleneck(self.backbone(x))

    def forward_both(self, batch: PairBatch) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """((source features, target features), both): one concatenated forward, so that batch statistics are
        shared."""
        both = self.features(torch.cat([batch.x_s, batch.x_t]))
        return (both[: len(batch.x_s)], both[len(batch.x_s) :]), both

    def forward_apart(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(source features, target features): two forwards, source first, so that each domain is normalised
        by its own batch statistics and both move the running averages."""
        return self.features(batch.x_s), self.features(batch.x_t)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The method's prediction for inputs (B, ...): (B, classes)."""
        return self.method.predict(self, self.features(x))

    def forward(self, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        if progress.name == SHARPNESS:
            loss = self.method.task_loss(self, batch)
            return {"loss": loss, "sharpness_task": loss.detach()}
        return self.method.losses(self, batch, progress)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The method's optimiser groups."""
        return self.method.parameter_groups(self)


def bottleneck(width: int, out: int) -> nn.Module:
    """Linear-BatchNorm-ReLU from ``width`` to ``out``; Identity for ``out`` 0."""
    if not out:
        return nn.Identity()
    linear = nn.Linear(width, out)
    nn.init.normal_(linear.weight, 0, 0.005)
    nn.init.constant_(linear.bias, 0.1)
    return nn.Sequential(linear, nn.BatchNorm1d(out), nn.ReLU())

"""MCD: two heads find, and the features close, the target region where they disagree (Saito et al., CVPR
2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from diffadapt.compute.progress import Pass, Progress
from diffadapt.core.ranges import Between, Fraction, NonNegative, Positive
from diffadapt.methods.uda.base import PairBatch, UdaMethod

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class Mcd(UdaMethod):
    """Maximum classifier discrepancy (Saito et al. 2018, section 3.3), with Transfer-Learning-Library's
    settings.

    A step has three kinds of passes over one batch, each a forward, a backward and an update: ``task`` trains
    everything on the source (and keeps the target's predictions diverse), ``diverge`` lets the heads disagree
    on the target, ``agree`` (``agree_steps`` times) lets the features bring them together. The prediction is
    the mean of both heads' logits: a rule without labels, where the reference reports the head that is better
    on labelled target data.
    """

    lr: float = 0.001
    lr_gamma: float = 0.0
    nesterov: bool = False
    weight_decay: float = 5e-4
    backbone_lr: float = 1.0
    bottleneck: int = 0
    trade_off: NonNegative = 10.0
    """Weight of the discrepancy: 10 for Office-31, 30 for Office-Home."""
    entropy: NonNegative = 0.01
    """Weight of the class balance of the target's predictions."""
    agree_steps: Positive = 4
    hidden: Positive = 1024
    dropout: Annotated[float, Between(0, 0.99)] = 0.5
    features_momentum: Fraction = 0.0
    """Momentum of backbone and bottleneck; the heads have ``momentum``."""

    title: ClassVar[str] = "MCD"
    batch_coupled: ClassVar[str] = "each worker draws the dropout masks of its own part of the batch"

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        from torch import nn

        def head() -> nn.Sequential:
            first = [
                nn.Dropout(self.dropout),
                nn.Linear(width, self.hidden),
                nn.BatchNorm1d(self.hidden),
                nn.ReLU(),
            ]
            second = [
                nn.Dropout(self.dropout),
                nn.Linear(self.hidden, self.hidden),
                nn.BatchNorm1d(self.hidden),
                nn.ReLU(),
            ]
            return nn.Sequential(*first, *second, nn.Linear(self.hidden, classes))

        return {"head": head(), "head2": head()}

    def passes(self) -> tuple[Pass, ...]:
        agree = Pass("agree", ("features",))
        return (Pass("task"), Pass("diverge", ("heads",)), *[agree] * self.agree_steps)

    def parameter_groups(self, net: AdaptationNetwork) -> list[dict[str, Any]]:
        features = [*net.backbone.parameters(), *net.bottleneck.parameters()]
        heads = [*net.head.parameters(), *net.head2.parameters()]
        still = {"momentum": self.features_momentum, "nesterov": self.nesterov and self.features_momentum > 0}
        return [
            {"name": "features", "params": features, "lr_scale": self.backbone_lr, **still},
            {"name": "heads", "params": heads, "lr_scale": 1.0},
        ]

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import full, imbalance

        (f_s, _), both = net.forward_both(batch)
        one, two = full(net.head(both)), full(net.head2(both))
        n = len(f_s)
        p1, p2 = F.softmax(one[n:], 1), F.softmax(two[n:], 1)
        discrepancy = (p1 - p2).abs().mean()
        if progress.name == "agree":
            return {"loss": self.trade_off * discrepancy, "discrepancy": discrepancy}
        task = F.cross_entropy(one[:n], batch.y_s) + F.cross_entropy(two[:n], batch.y_s)
        loss = task + self.entropy * (imbalance(p1) + imbalance(p2))
        if progress.name == "diverge":
            return {"loss": loss - self.trade_off * discrepancy}
        accuracy = ((one + two)[:n].detach().argmax(1) == batch.y_s).float().mean()
        return {"loss": loss, "task": task, "accuracy": accuracy}

    def predict(self, net: AdaptationNetwork, features: torch.Tensor) -> torch.Tensor:
        return (net.head(features) + net.head2(features)) / 2

    def exported_head(self, net: AdaptationNetwork) -> nn.Module:
        from diffadapt.methods.uda.layers import mean_of_heads

        return mean_of_heads(net.head, net.head2)

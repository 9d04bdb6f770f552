"""CDAN and MCC together, the base on which SDAT was published (Rangwani et al., ICML 2022, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from diffadapt.compute.progress import Progress
from diffadapt.core.ranges import AtLeast
from diffadapt.methods.uda.base import PairBatch
from diffadapt.methods.uda.cdan import Cdan

if TYPE_CHECKING:
    import torch

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class CdanMcc(Cdan):
    """Source cross-entropy + trade_off (CDAN's discriminator loss + MCC's class confusion on the target),
    with the settings of SDAT's authors; with ``uda.sdat`` it is their best row (ViT: lr .002, sdat .02)."""

    temperature: Annotated[float, AtLeast(0.001)] = 2.0
    """Of the class confusion."""

    title: ClassVar[str] = "CDAN + MCC"

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        from diffadapt.methods.uda.mcc import Mcc

        found, logits = self.adversarial(net, batch, progress)
        confusion = Mcc.confusion(logits[len(batch.x_s) :], self.temperature)
        return {**found, "loss": found["loss"] + self.trade_off * confusion, "confusion": confusion}

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        """SDAT counts the confusion to the task."""
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import full
        from diffadapt.methods.uda.mcc import Mcc

        (f_s, _), both = net.forward_both(batch)
        logits = full(net.head(both))
        task = F.cross_entropy(logits[: len(f_s)], batch.y_s)
        return task + Mcc.confusion(logits[len(f_s) :], self.temperature)

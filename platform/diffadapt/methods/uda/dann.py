"""DANN: features that a domain discriminator cannot tell apart (Ganin et al., JMLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from diffadapt.compute.progress import Progress
from diffadapt.core.ranges import NonNegative, Positive
from diffadapt.methods.uda.base import PairBatch, UdaMethod

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class Dann(UdaMethod):
    """Source cross-entropy and, through gradient reversal, the discriminator's loss (Ganin et al. 2016,
    equations 9 and 10)."""

    trade_off: NonNegative = 1.0
    hidden: Positive = 1024
    """Width of the discriminator."""
    reversal_steps: Positive = 1000
    """Scale, in steps, of the rise of the reversal from 0 to 1: 2 / (1 + e^(-step / reversal_steps)) - 1."""

    title: ClassVar[str] = "DANN"

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        from diffadapt.methods.uda.layers import discriminator

        return {**super().build(width, classes), "discriminator": discriminator(width, self.hidden)}

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import domain_loss, full, reversal, reverse

        (f_s, _), both = net.forward_both(batch)
        logits = full(net.head(f_s))
        task = F.cross_entropy(logits, batch.y_s)
        domains = net.discriminator(reverse(both, reversal(progress.step, steps=self.reversal_steps)))
        domain, told_apart = domain_loss(domains, len(f_s))
        accuracy = (logits.detach().argmax(1) == batch.y_s).float().mean()
        return {
            "loss": task + self.trade_off * domain,
            "task": task,
            "domain": domain,
            "domain_accuracy": told_apart,
            "accuracy": accuracy,
        }

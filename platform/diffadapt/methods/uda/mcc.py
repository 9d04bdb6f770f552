"""MCC: minimum class confusion on the target (Jin et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from diffadapt.compute.progress import Progress
from diffadapt.core.ranges import AtLeast, NonNegative
from diffadapt.methods.uda.base import PairBatch, UdaMethod

if TYPE_CHECKING:
    import torch

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class Mcc(UdaMethod):
    """Source cross-entropy and the class confusion of the target's predictions; Office-31's published
    settings."""

    lr: float = 0.005
    bottleneck: int = 1024
    temperature: Annotated[float, AtLeast(0.001)] = 2.5
    trade_off: NonNegative = 1.0

    title: ClassVar[str] = "MCC"

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import full

        (f_s, _), both = net.forward_both(batch)
        logits, n = full(net.head(both)), len(f_s)
        task = F.cross_entropy(logits[:n], batch.y_s)
        confusion = self.confusion(logits[n:], self.temperature)
        accuracy = (logits[:n].detach().argmax(1) == batch.y_s).float().mean()
        return {
            "loss": task + self.trade_off * confusion,
            "task": task,
            "confusion": confusion,
            "accuracy": accuracy,
        }

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        """SDAT counts the confusion to the task."""
        return self.losses(net, batch, Progress(0, 1, 1))["loss"]

    @staticmethod
    def confusion(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Class confusion of target logits (B, K) over the global batch, a scalar in 0..1 (Jin et al. 2020,
        equations 3-7).

        Items are weighed by 1 + exp(-entropy), without gradient and with mean 1.
        """
        import torch.nn.functional as F

        from diffadapt.compute.distributed import gather
        from diffadapt.methods.uda.layers import entropy

        p = F.softmax(gather(logits) / temperature, 1)
        w = (1.0 + (-entropy(p)).exp()).detach()
        c = p.T @ (p * (w / w.mean())[:, None])
        c = c / c.sum(1)
        return (c.sum() - c.trace()) / p.shape[1]

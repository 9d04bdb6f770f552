"""Training on the source alone: the row against which every adaptation is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from diffadapt.compute.progress import Progress
from diffadapt.methods.uda.base import PairBatch, UdaMethod

if TYPE_CHECKING:
    import torch

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class SourceOnly(UdaMethod):
    """Cross-entropy on the source (Transfer-Learning-Library's ERM settings: no bottleneck). Target images
    are not read."""

    lr: float = 0.001
    lr_gamma: float = 3e-4
    weight_decay: float = 5e-4
    bottleneck: int = 0

    title: ClassVar[str] = "Source only"
    uses_target: ClassVar[bool] = False

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        logits = net.head(net.features(batch.x_s))
        return {
            "loss": self.cross_entropy(logits, batch.y_s),
            "accuracy": (logits.detach().argmax(1) == batch.y_s).float().mean(),
        }

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        return self.cross_entropy(net.head(net.features(batch.x_s)), batch.y_s)

    @staticmethod
    def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(logits, labels)

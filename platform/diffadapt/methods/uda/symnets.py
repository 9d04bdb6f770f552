"""SymNets: a source and a target classifier side by side, and features confused at domain and category level
(Zhang et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from diffadapt.compute.progress import Progress
from diffadapt.methods.uda.base import PairBatch, UdaMethod

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.models.adaptation import AdaptationNetwork


class Terms(NamedTuple):
    """The losses of the classifiers' and of the features' side (Zhang et al. 2019, equations 5-12)."""

    task_source: torch.Tensor
    task_target: torch.Tensor
    domain_source: torch.Tensor
    domain_target: torch.Tensor
    category: torch.Tensor
    confusion: torch.Tensor
    entropy: torch.Tensor


@dataclass(frozen=True)
class SymNets(UdaMethod):
    """One Linear to 2K logits: the first K are the source classifier, the last K the target classifier, which
    predicts.

    Source and target are forwarded apart, as in the authors' code, so that batch norm sees each domain with
    its own statistics. The classifiers' weights receive only the gradient of their own loss, the features
    only that of theirs; both come from one backward pass, in which each side sees the other detached. The
    authors train with batches of 128 + 128 on the views of ``augment crop``; on cached features too, 128 is
    better than 32.
    """

    lr: float = 0.01
    weight_decay: float = 1e-4
    lr_gamma: float = 10.0
    """The rate falls by epochs: lr (1 + lr_gamma epoch / epochs)^-lr_decay."""
    bottleneck: int = 0

    title: ClassVar[str] = "SymNets"
    version: ClassVar[int] = 2

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        from torch import nn

        return {"head": nn.Linear(width, 2 * classes)}

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        import torch
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import full

        both, n, head = torch.cat(net.forward_apart(batch)), len(batch.x_s), net.head
        of_head = full(head(both.detach()))
        c = self.terms(of_head[:n], of_head[n:], batch.y_s)
        of_features = full(F.linear(both, head.weight.detach(), head.bias.detach()))
        g = self.terms(of_features[:n], of_features[n:], batch.y_s)
        ramp = self.ramp(progress)
        classifiers, features = self.of_classifiers(c), self.of_features(g, ramp)
        accuracy = (of_head[:n, net.classes :].detach().argmax(1) == batch.y_s).float().mean()
        parts = {
            "classifiers": classifiers,
            "features": features,
            "category": g.category,
            "confusion": g.confusion,
            "entropy": g.entropy,
        }
        return {
            "loss": classifiers + features,
            **parts,
            "ramp": classifiers.new_tensor(ramp),
            "accuracy": accuracy,
        }

    @staticmethod
    def terms(z_s: torch.Tensor, z_t: torch.Tensor, y: torch.Tensor) -> Terms:
        """All terms from the 2K logits of source (B, 2K) and target (B, 2K) and the source labels (B,)."""
        import torch
        import torch.nn.functional as F

        k = z_s.shape[1] // 2

        def domain(z: torch.Tensor, half: slice) -> torch.Tensor:
            return -(torch.logsumexp(z[:, half], 1) - torch.logsumexp(z, 1)).mean()

        source, target = slice(0, k), slice(k, 2 * k)
        category = F.cross_entropy(z_s, y) / 2 + F.cross_entropy(z_s, y + k) / 2
        confusion = domain(z_t, source) / 2 + domain(z_t, target) / 2
        log_q = torch.logaddexp(*F.log_softmax(z_t, 1).split(k, 1))
        entropy = -(log_q.exp() * log_q).sum(1).mean()
        return Terms(
            F.cross_entropy(z_s[:, source], y),
            F.cross_entropy(z_s[:, target], y),
            domain(z_s, source),
            domain(z_t, target),
            category,
            confusion,
            entropy,
        )

    @staticmethod
    def of_classifiers(terms: Terms) -> torch.Tensor:
        """What the classifiers' weights minimise."""
        return terms.task_source + terms.task_target + terms.domain_source + terms.domain_target

    @staticmethod
    def of_features(terms: Terms, ramp: float) -> torch.Tensor:
        """What the features minimise."""
        return terms.category + ramp * (terms.confusion + terms.entropy)

    @staticmethod
    def ramp(progress: Progress) -> float:
        """Lambda of the authors' code: 2 / (1 + e^(-10 epoch / epochs)) - 1."""
        return 2.0 / (1.0 + math.exp(-10.0 * progress.epoch / progress.epochs)) - 1.0

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        import torch.nn.functional as F

        f_s, _ = net.forward_apart(batch)
        of_source, of_target = net.head(f_s).chunk(2, 1)
        return F.cross_entropy(of_source, batch.y_s) + F.cross_entropy(of_target, batch.y_s)

    def lr_at(self, progress: Progress) -> float:
        return self.lr * (1.0 + self.lr_gamma * progress.epoch / progress.epochs) ** -self.lr_decay

    def predict(self, net: AdaptationNetwork, features: torch.Tensor) -> torch.Tensor:
        return net.head(features)[:, net.classes :]

    def exported_head(self, net: AdaptationNetwork) -> nn.Module:
        import torch
        from torch import nn

        head = nn.Linear(net.width, net.classes).to(net.head.weight)
        with torch.no_grad():
            head.weight.copy_(net.head.weight[net.classes :])
            head.bias.copy_(net.head.bias[net.classes :])
        return head

"""CDAN: the discriminator sees features together with predictions (Long et al., NeurIPS 2018)."""

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
class Cdan(UdaMethod):
    """Source cross-entropy and the loss of a discriminator of h = g x f (Long et al. 2018, equations 3, 5 and
    8).

    Predictions g are detached, and so are the entropy weights, which are normalised to mean 1 over both
    domains together (Transfer-Learning-Library's form; the authors' code normalises the domains apart and
    lets gradients through).
    """

    trade_off: NonNegative = 1.0
    hidden: Positive = 1024
    """Width of the discriminator."""
    entropy: bool = False
    """CDAN+E: weigh each item by 1 + exp(-entropy of its prediction)."""
    randomized: bool = False
    """Two fixed random projections instead of the whole outer product (equation 6), for many classes."""
    randomized_width: Positive = 1024
    reversal_steps: Positive = 1000

    title: ClassVar[str] = "CDAN"

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        from diffadapt.methods.uda.layers import RandomMap, discriminator

        modules = super().build(width, classes)
        if self.randomized:
            modules["random_map"] = RandomMap(width, classes, self.randomized_width)
        modules["discriminator"] = discriminator(
            self.randomized_width if self.randomized else width * classes, self.hidden
        )
        return modules

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        return self.adversarial(net, batch, progress)[0]

    def adversarial(
        self, net: AdaptationNetwork, batch: PairBatch, progress: Progress
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(CDAN's losses, the logits (2B, K) of both domains)."""
        import torch.nn.functional as F

        from diffadapt.methods.uda.layers import domain_loss, full, reversal, reverse

        (f_s, _), both = net.forward_both(batch)
        logits = full(net.head(both))
        task = F.cross_entropy(logits[: len(f_s)], batch.y_s)
        g = F.softmax(logits, 1).detach()
        joint = net.random_map(both, g) if self.randomized else (g[:, :, None] * both[:, None, :]).flatten(1)
        domains = net.discriminator(reverse(joint, reversal(progress.step, steps=self.reversal_steps)))
        domain, told_apart = domain_loss(domains, len(f_s), self.weights(g) if self.entropy else None)
        accuracy = (logits[: len(f_s)].detach().argmax(1) == batch.y_s).float().mean()
        return {
            "loss": task + self.trade_off * domain,
            "task": task,
            "domain": domain,
            "domain_accuracy": told_apart,
            "accuracy": accuracy,
        }, logits

    @staticmethod
    def weights(g: torch.Tensor) -> torch.Tensor:
        """Weights (2B,) of predictions (2B, K), mean 1 over the global batch."""
        from diffadapt.methods.uda.layers import entropy, global_mean

        w = 1.0 + (-entropy(g)).exp()
        return w / global_mean(w)

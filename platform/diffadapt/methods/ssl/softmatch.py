"""SoftMatch (Chen et al. 2023, "SoftMatch: Addressing the quantity-quality trade-off in semi-supervised
learning")."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.ranges import AboveZero, Fraction
from diffadapt.methods.ssl._consistency import Consistency


@dataclass(frozen=True)
class SoftMatch(Consistency):
    """FixMatch with a weight in place of a threshold: exp(-min(max p - mu, 0)^2 / (2 var / sigmas^2)), mu and
    var moving averages of max p over unlabelled batches (equations 5 to 7)."""

    momentum: Fraction = 0.999
    """Of the moving averages, which start at equal weights. Published for a million steps; for a few thousand
    steps that start from stage 1's weights 0.9 to 0.99 is better (measured on Office-31 with frozen
    features)."""
    sigmas: AboveZero = 2.0
    align: bool = True
    """Uniform alignment: p is divided by its moving average before it is weighed (equation 8); targets stay
    as they are."""

    title = "SoftMatch"

    def build(self, classes, unlabelled):
        import torch
        from torch import nn

        state = nn.Module()
        state.register_buffer("mu", torch.tensor(1.0 / classes, dtype=torch.float64))
        state.register_buffer("variance", torch.tensor(1.0, dtype=torch.float64))
        # All zero until the first batch, which it then equals.
        state.register_buffer("mean", torch.zeros(classes, dtype=torch.float64))
        return state

    def weigh(self, net, weak, batch):
        import torch

        with torch.no_grad():
            p = self.aligned(net.state, weak.softmax(1)) if self.align else weak.softmax(1)
            self._follow(net.state, p)
            below = (p.max(1).values - net.state.mu).clamp(max=0.0)
            weights = torch.exp(-(below**2) / (2 * net.state.variance / self.sigmas**2))
            return weak.argmax(1), weights.to(weak.dtype)

    def aligned(self, state, p):
        """p (B, K) times uniform over its moving average, normalised; moves the average first."""
        from diffadapt.compute.distributed import gather

        batch = gather(p).mean(0).to(state.mean.dtype)
        state.mean.copy_(
            batch if not state.mean.any() else self.momentum * state.mean + (1 - self.momentum) * batch
        )
        scaled = p * ((1.0 / p.shape[1] + 1e-6) / (state.mean + 1e-6))
        return scaled / scaled.sum(1, keepdim=True)

    def _follow(self, state, p):
        from diffadapt.compute.distributed import gather

        confidence = gather(p.max(1).values)
        spread = confidence.var() if len(confidence) > 1 else confidence.new_zeros(())
        for average, value in ((state.mu, confidence.mean()), (state.variance, spread)):
            average.mul_(self.momentum).add_(value.to(average.dtype), alpha=1 - self.momentum)

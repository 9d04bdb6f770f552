"""FreeMatch (Wang et al. 2023, "FreeMatch: Self-adaptive thresholding for semi-supervised learning")."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.ranges import Fraction, NonNegative
from diffadapt.methods.ssl._consistency import Consistency


@dataclass(frozen=True)
class FreeMatch(Consistency):
    """FixMatch whose threshold follows the model: a global one (average of max p) times a class's share of
    the average prediction, relative to the largest (equations 5 to 7); and a fairness term (equations 9 to
    11)."""

    momentum: Fraction = 0.999
    """Of the moving averages, which start at no threshold at all. Published for a million steps; for a few
    thousand steps that start from stage 1's weights 0.9 to 0.99 is better (measured on Office-31 with frozen
    features)."""
    fairness: NonNegative = 0.001
    quantile: bool = False
    """The global threshold follows the .8 quantile of max p instead of its mean (as the authors' CIFAR runs
    do)."""
    clip: bool = False
    """The global threshold never exceeds .95."""

    title = "FreeMatch"

    def build(self, classes, unlabelled):
        import torch
        from torch import nn

        state = nn.Module()
        uniform = torch.full((classes,), 1.0 / classes, dtype=torch.float64)
        for name, value in (("level", uniform[0]), ("mean", uniform), ("histogram", uniform)):
            state.register_buffer(name, value.clone())
        return state

    def weigh(self, net, weak, batch):
        import torch

        from diffadapt.compute.distributed import gather

        state = net.state
        with torch.no_grad():
            p = gather(weak.softmax(1)).to(state.mean.dtype)
            confidence, predicted = p.max(1)
            found = torch.quantile(confidence, 0.8) if self.quantile else confidence.mean()
            counts = torch.bincount(predicted, minlength=p.shape[1]).to(p.dtype)
            for average, value in (
                (state.level, found),
                (state.mean, p.mean(0)),
                (state.histogram, counts / counts.sum()),
            ):
                average.mul_(self.momentum).add_(value, alpha=1 - self.momentum)
            if self.clip:
                state.level.clamp_(0.0, 0.95)
            confidence, targets = weak.softmax(1).max(1)
            thresholds = state.level * state.mean / state.mean.max()
            return targets, (confidence >= thresholds[targets]).to(weak.dtype)

    def further(self, net, strong, weights):
        return {
            "fairness": (self.fairness, fairness_loss(strong, weights, net.state.mean, net.state.histogram))
        }


def fairness_loss(strong, weights, mean, histogram):
    """sum_c a_c log(b_c): a the average prediction over its histogram, b the same of the strong views that
    are used.

    Both are normalised; classes that no used view is predicted as count as zero in b. The views of all
    workers count. Zero when none is used.
    """
    import torch

    from diffadapt.compute.distributed import gather

    strong, weights = gather(strong), gather(weights)
    p = strong.softmax(1)
    used = weights.bool()
    total = used.sum().clamp(min=1)
    counts = torch.bincount(p.argmax(1)[used], minlength=p.shape[1]).to(p.dtype)
    ours = mean.to(p.dtype) * _inverse(histogram.to(p.dtype))
    theirs = (p * weights[:, None]).sum(0) / total * _inverse(counts / total)
    theirs = theirs / theirs.sum().clamp(min=torch.finfo(p.dtype).tiny)
    return (ours / ours.sum() * torch.log(theirs + 1e-12)).sum() * used.any()


def _inverse(x):
    """1/x, and 0 where x is 0."""
    return (1.0 / x).masked_fill(x == 0, 0.0)

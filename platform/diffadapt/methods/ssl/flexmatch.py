"""FlexMatch (Zhang et al. 2021, "FlexMatch: Boosting semi-supervised learning with curriculum pseudo
labeling")."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.ranges import Fraction
from diffadapt.methods.ssl._consistency import Consistency


@dataclass(frozen=True)
class FlexMatch(Consistency):
    """FixMatch with a threshold a class, threshold b_c / (2 - b_c): lower for classes that are learnt less.

    b_c is the number of unlabelled images whose last confident prediction was c, relative to the most
    frequent class (equations 5, 6, 11); with ``threshold_warmup``, images without a confident prediction so
    far count as a class of their own (equation 10).
    """

    threshold: Fraction = 0.95
    threshold_warmup: bool = True

    title = "FlexMatch"

    def build(self, classes, unlabelled):
        import torch
        from torch import nn

        state = nn.Module()
        state.register_buffer("predicted", torch.full((unlabelled,), -1, dtype=torch.int64))
        return state

    def weigh(self, net, weak, batch):
        import torch

        from diffadapt.compute.distributed import gather

        confidence, targets = weak.softmax(1).max(1)
        status = learning_status(net.state.predicted, weak.shape[1], self.threshold_warmup)
        status = status.to(weak.dtype)[targets]
        weights = (confidence >= self.threshold * status / (2.0 - status)).to(weak.dtype)
        with torch.no_grad():
            chosen = gather((confidence >= self.threshold).long()).bool()
            index, labels = gather(batch.index)[chosen], gather(targets)[chosen]
            net.state.predicted[index] = labels
        return targets, weights


def learning_status(predicted, classes, warmup):
    """b_c, float64 (classes,), from each image's last confident prediction (-1: none yet); zero before the
    first."""
    import torch

    counts = torch.bincount(predicted + 1, minlength=classes + 1)
    largest = (counts if warmup else counts[1:]).max().clamp(min=1)
    return counts[1:].double() / largest

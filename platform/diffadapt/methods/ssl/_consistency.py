"""What FixMatch and its successors have in common: the weak view teaches the strong one, with a weight an
image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffadapt.core.ranges import Natural
from diffadapt.methods.ssl.base import SslBatch, SslMethod, SslNet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Consistency(SslMethod):
    """CE(labelled) + lambda_u mean( w CE(strong, argmax p_weak) ), the mean over all unlabelled images
    (FixMatch equations 3 and 4); a method says what w is."""

    forward: Literal["separate", "joint"] = "joint"
    """joint: labelled, weak and strong images in one pass, with common batch statistics (USB, kekmodel);
    separate: in passes of their own (Transfer-Learning-Library). The two differ with batch norm alone."""
    schedule: Literal["anneal", "cosine"] = "anneal"
    """anneal: as stage 1's; cosine: lr cos(7 pi i / 16 N) after a linear warm-up, FixMatch's own (section
    2.4)."""
    warmup_steps: Natural = 0
    """Steps of cosine's warm-up."""

    def lr_at(self, progress):
        if self.schedule == "anneal":
            return super().lr_at(progress)
        if progress.step < self.warmup_steps:
            return self.lr * progress.step / self.warmup_steps
        done = (progress.step - self.warmup_steps) / max(1, progress.total_steps - self.warmup_steps)
        return self.lr * max(0.0, math.cos(7 / 16 * math.pi * done))

    def losses(self, net, batch, progress):
        import torch.nn.functional as F

        from diffadapt.methods.ssl.layers import three_views, weighted_cross_entropy

        labelled, weak, strong = three_views(net, batch, self.forward == "joint")
        targets, weights = self.weigh(net, weak, batch)
        supervised = F.cross_entropy(labelled, batch.y)
        unsupervised = weighted_cross_entropy(strong, targets, weights)
        loss = supervised + self.lambda_u * unsupervised
        parts = {"labelled": supervised.detach(), "unlabelled": unsupervised.detach(), "used": weights.mean()}
        for name, (factor, value) in self.further(net, strong, weights).items():
            loss, parts[name] = loss + factor * value, value.detach()
        return {"loss": loss, **parts}

    def weigh(self, net: SslNet, weak: torch.Tensor, batch: SslBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets int64 (mu B,) and weights (mu B,) of the unlabelled images from the logits of their weak
        views."""
        raise NotImplementedError

    def further(
        self, net: SslNet, strong: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Further terms by name: (factor, value)."""
        return {}

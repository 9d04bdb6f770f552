"""MixMatch (Berthelot et al. 2019, "MixMatch: A holistic approach to semi-supervised learning")."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from diffadapt.core.ranges import AboveZero, Fraction
from diffadapt.methods.ssl.base import SslMethod


@dataclass(frozen=True)
class MixMatch(SslMethod):
    """Guess the labels of unlabelled images (mean over two weak views, sharpened), mix all images with one
    another, then soft cross-entropy on the labelled part + lambda_u w mean (softmax - guess)^2 over images
    and classes (algorithm 1, equations 2 to 5). w and what batch norm sees are USB's."""

    lambda_u: float = 10.0
    """About 10 for fine-tuning 224-pixel images, 75 to 150 on CIFAR from scratch."""
    temperature: AboveZero = 0.5
    alpha: AboveZero = 0.75
    """Of the Beta distribution of the mixing coefficient."""
    unsup_warm_up: Fraction = 0.4
    """Part of the training over which w grows linearly from 0 to 1."""
    forward: Literal["separate", "interleave"] = "separate"
    """separate: the mixed images in batches of the labelled ones' number, of which the first, the labelled
    part's, alone moves batch norm's running averages (USB); interleave: rows are exchanged so that each batch
    has labelled and unlabelled images, and all move them, the guesses' too (the TensorFlow original)."""

    title = "MixMatch"
    version = 2
    weak_views = 2
    strong_views = 0
    batch_coupled = (
        "each worker mixes its own images with one another, by a coefficient and an order of its own"
    )

    def losses(self, net, batch, progress):
        import torch

        rows = len(batch.x) + sum(len(view) for view in batch.weak)
        coefficient = torch.distributions.Beta(self.alpha, self.alpha).sample()
        order = torch.randperm(rows, device=batch.x.device)
        return self.mixed_losses(net, batch, coefficient.to(batch.x), order, self.ramp(progress))

    def ramp(self, progress):
        """w at a step."""
        return min(1.0, progress.fraction / self.unsup_warm_up) if self.unsup_warm_up else 1.0

    def mixed_losses(self, net, batch, coefficient, order, ramp):
        """The losses where all rows are mixed with themselves in ``order`` by ``coefficient``, and lambda_u
        is scaled by ``ramp``."""
        import torch
        import torch.nn.functional as F

        from diffadapt.methods.ssl.layers import interleaved, soft_cross_entropy, still_averages

        rows = len(batch.x)
        guess = self.guess(net, batch.weak)
        targets = torch.cat([F.one_hot(batch.y, guess.shape[1]).to(guess.dtype), *[guess] * len(batch.weak)])
        x, targets = mix(torch.cat([batch.x, *batch.weak]), targets, coefficient, order)
        if self.forward == "interleave":
            labelled, *rest = interleaved(net, x.split(rows))
        else:
            first, *others = x.split(rows)
            labelled = net(first)
            with still_averages(net):
                rest = [net(part) for part in others]
        supervised = soft_cross_entropy(labelled, targets[:rows])
        unsupervised = ((torch.cat(rest).softmax(1) - targets[rows:]) ** 2).mean()
        weight = self.lambda_u * ramp
        loss = supervised + weight * unsupervised
        parts = {
            "labelled": supervised.detach(),
            "unlabelled": unsupervised.detach(),
            "weight": loss.new_tensor(weight),
        }
        return {"loss": loss, **parts}

    def guess(self, net, views):
        """Sharpened mean prediction (mu B, K) over the views, without gradient."""
        import torch

        from diffadapt.methods.ssl.layers import sharpen, still_averages

        still = still_averages(net) if self.forward == "separate" else nullcontext()
        with torch.no_grad(), still:
            return sharpen(torch.stack([net(view).softmax(1) for view in views]).mean(0), self.temperature)


def mix(x, targets, coefficient, order):
    """MixUp of inputs and targets with themselves in another order; the first partner keeps the larger
    share."""
    import torch

    share = torch.maximum(coefficient, 1 - coefficient).to(x.dtype)
    return share * x + (1 - share) * x[order], share * targets + (1 - share) * targets[order]

"""Plain pseudo-labels (Lee 2013): cross-entropy on the confident images with stage 1's predictions as
labels."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.methods.ssl.base import SslMethod


@dataclass(frozen=True)
class PseudoLabel(SslMethod):
    """The baseline of stage 2: unconfident images are not used, labels stay as the split made them."""

    title = "pseudo-labels"
    weak_views = 0
    strong_views = 0
    uses_unlabelled = False

    def losses(self, net, batch, progress):
        import torch.nn.functional as F

        logits = net(batch.x)
        loss = F.cross_entropy(logits, batch.y)
        agreement = (logits.detach().argmax(1) == batch.y).float().mean()
        return {"loss": loss, "agreement": agreement}

"""CDTrans: cross-attention between paired source and target images (Xu et al., ICLR 2022)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.compute.progress import Progress
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.ranges import Fraction, Natural, NonNegative, Positive
from diffadapt.methods.uda.base import PairBatch, Sizes, UdaMethod

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.models.adaptation import AdaptationNetwork

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CdTrans(UdaMethod):
    """CDTrans (sections 3.1 to 3.3) with its authors' settings; published with batches of 64 and 10 + 40
    epochs of one pass each, over the source and then over the pairs, on the views of ``augment crop`` (VisDA:
    lr 5e-4 and then 5e-5, 20 + 40): the recipes of adapt_anything/cdtrans.

    The first ``pretrain_epochs`` of a training see the source alone. Then, every ``pair_every`` epochs, each
    source image is paired with its most similar target image and each target image with its most similar
    source image; pairs whose source label is not the target's pseudo-label are dropped, so that one label
    holds for both. Without any pair left the training goes on as in the first epochs until the next pairing.
    Predictions are the target branch's, which is the plain network. The head is a batch norm without bias,
    which sees each branch apart, and a Linear layer; both become one Linear layer in the result, a plain timm
    model. Biases learn at ``bias_lr`` times the rate.
    """

    lr: float = 0.008
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    backbone_lr: float = 1.0
    bottleneck: int = 0
    clip_norm: float | None = 1.0
    pretrain_epochs: Natural = 10
    """Epochs on the source alone, with a warm-up and a cosine of their own."""
    warmup_epochs: Natural = 10
    """Epochs of linear warm-up from a hundredth of ``lr``, in each of the two phases."""
    label_smoothing: Fraction = 0.1
    """On the source alone."""
    pair_every: Positive = 10
    adapt_lr: NonNegative | None = None
    """``lr`` from the first pairing on; None: the same."""
    bias_lr: NonNegative = 2.0
    """The biases' rate, relative to the others'."""
    drop_path: Fraction = 0.1
    """Stochastic depth of the backbone's last block, from 0 at the first."""

    title: ClassVar[str] = "CDTrans"
    version: ClassVar[int] = 2
    backbone_kind: ClassVar[str] = "vit"
    batch_coupled: ClassVar[str] = "each worker draws the dropped paths of its own part of the batch"

    def notes(self, epochs: int, frozen: bool) -> tuple[str, ...]:
        paired = epochs - self.pretrain_epochs
        if paired > self.warmup_epochs:
            return ()
        return (
            f"CDTrans ends within its warm-up: of {epochs} epochs {self.pretrain_epochs} see the source alone"
            f" and the other {paired} are no more than cdtrans.warmup_epochs = {self.warmup_epochs}; its"
            " authors adapt for 40 (the recipes adapt_anything/cdtrans), which would be uda.epochs"
            f" {self.pretrain_epochs + 40}.",
        )

    def epoch_steps(self, sizes: Sizes) -> int:
        return max(1, (sizes.source + sizes.target) // sizes.batch)

    def steps_now(self, net: AdaptationNetwork, progress: Progress, sizes: Sizes) -> int:
        """A pass over the pairs, at most one for each image of either set; over the source without any."""
        return max(1, (len(net.pairs) if self._paired(net, progress) else sizes.source) // sizes.batch)

    def check(self, epochs: int) -> None:
        if epochs <= self.pretrain_epochs:
            raise RecipeError(
                f"CDTrans trains on the source alone for pretrain_epochs = {self.pretrain_epochs}, which"
                f" leaves none of the {epochs} epochs to adapt in: raise epochs or lower"
                " cdtrans.pretrain_epochs."
            )

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        from torch import nn

        from diffadapt.models.cdtrans import PairList

        neck, linear = nn.BatchNorm1d(width), nn.Linear(width, classes, bias=False)
        neck.bias.requires_grad_(False)
        nn.init.normal_(linear.weight, 0, 0.001)
        return {"head": nn.Sequential(neck, linear), "pairs": PairList()}

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        import torch.nn.functional as F

        if not self._paired(net, progress):
            logits = net.head(net.features(batch.x_s))
            loss = F.cross_entropy(logits, batch.y_s, label_smoothing=self.label_smoothing)
            return {"loss": loss, "source": loss.detach(), "accuracy": _accuracy(logits, batch.y_s)}
        from diffadapt.models.cdtrans import three_branches

        f_s, f_t, f_st = three_branches(net.backbone, batch.x_s, batch.x_t)
        # The authors' order, in which each branch moves the neck's running averages.
        source, fusion, target = (net.head(f) for f in (f_s, f_st, f_t))
        # A pair is kept only where the pseudo-label is the source's label.
        parts = self.objective(source, target, fusion, batch.y_s, batch.y_s)
        return {
            "loss": parts["source"] + parts["target"] + parts["distillation"],
            **{k: v.detach() for k, v in parts.items()},
            "accuracy": _accuracy(source, batch.y_s),
        }

    @staticmethod
    def objective(
        source: torch.Tensor,
        target: torch.Tensor,
        fusion: torch.Tensor,
        labels: torch.Tensor,
        pseudo: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The three terms of equation 5 for logits (B, K) of the branches and int64 (B,) labels; their sum is
        minimised.

        The fusion teaches the target branch and, as in the authors' code, learns from it too: it is not
        detached.
        """
        import torch.nn.functional as F

        return {
            "source": F.cross_entropy(source, labels),
            "target": F.cross_entropy(target, pseudo),
            "distillation": F.cross_entropy(target, fusion.softmax(1)),
        }

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(net.head(net.features(batch.x_s)), batch.y_s)

    def lr_at(self, progress: Progress) -> float:
        """Constant within an epoch: linear warm-up, then a cosine down to ``lr``/500, in each phase (the
        authors' schedule)."""
        first = progress.epoch < self.pretrain_epochs
        length = self.pretrain_epochs if first else progress.epochs - self.pretrain_epochs
        epoch = progress.epoch + 1 - (0 if first else self.pretrain_epochs)
        lr = self.lr if first or self.adapt_lr is None else self.adapt_lr
        if epoch < self.warmup_epochs:
            return lr * (0.01 + 0.99 * epoch / self.warmup_epochs)
        low = 0.002 * lr
        return low + (lr - low) * (1 + math.cos(math.pi * epoch / max(1, length))) / 2

    def sample(
        self, net: AdaptationNetwork, progress: Progress, rng: Any, count: int
    ) -> tuple[Any, Any] | None:
        if not self._paired(net, progress):
            return None
        import numpy as np

        order = np.random.default_rng(item_seed(progress.seed, "pairs", str(progress.epoch), "order"))
        return net.pairs.draw(order, count, progress.step % max(1, progress.steps_per_epoch))

    def refresh(self, net: AdaptationNetwork, data: Any, progress: Progress) -> None:
        import numpy as np
        import torch

        from diffadapt.compute.distributed import rank, same_buffers
        from diffadapt.models.cdtrans import nearest, pair_up, pseudo_labels

        since = progress.epoch - self.pretrain_epochs
        if since < 0 or since % self.pair_every:
            return
        neck, linear = net.head
        with torch.no_grad():
            source, target = (
                neck(torch.as_tensor(np.asarray(data.features(domain))).to(linear.weight))
                for domain in ("source", "target")
            )
            logits = linear(target)
        pseudo = pseudo_labels(target.cpu().numpy(), logits.cpu().numpy())
        of_source, of_target = nearest(source, target)
        labels = np.asarray(data.source_labels)
        pairs = pair_up(of_source, of_target, labels, pseudo)
        net.pairs.fill(*pairs)
        same_buffers(net.pairs)
        alone = len(np.unique(labels)) - len(np.unique(labels[pairs[0]]))
        if alone and rank() == 0:
            log.warning(
                "CDTrans found no pair for %d classes in epoch %d; they are not trained until the next"
                " pairing. A longer pretrain_epochs may help.",
                alone,
                progress.epoch + 1,
            )

    def parameter_groups(self, net: AdaptationNetwork) -> list[dict[str, Any]]:
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                part = "backbone" if name.startswith("backbone.") else "rest"
                scale = self.backbone_lr if part == "backbone" else 1.0
                if bias := "bias" in name:
                    scale *= self.bias_lr
                part += " biases" if bias else ""
                group = groups.setdefault(part, {"name": part, "params": [], "lr_scale": scale})
                group["params"].append(parameter)
        return list(groups.values())

    def exported_head(self, net: AdaptationNetwork) -> nn.Module:
        import torch
        from torch import nn

        neck, linear = net.head
        head = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
        with torch.no_grad():
            scale = neck.weight * torch.rsqrt(neck.running_var + neck.eps)
            head.weight.copy_(linear.weight * scale)
            head.bias.copy_(linear.weight @ (neck.bias - neck.running_mean * scale))
        return head

    def _paired(self, net: AdaptationNetwork, progress: Progress) -> bool:
        return progress.epoch >= self.pretrain_epochs and len(net.pairs) > 0


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()

"""Losses of ZoDi's model adaptation (section 3.3) and of its ablations: which images are trained on, and
whether features are pulled together.

Torch is imported where it is used, so that recipes can name the methods without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import RecipeError, suggest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.tasks.segmentation.config import SegmentTraining


@dataclass(frozen=True)
class SegmentMethod:
    """What a method trains on: the source images x, the transferred images x', and whether their features are
    to be similar."""

    name: str
    source: bool = True
    transferred: bool = True
    similar: bool = False


_KNOWN = {
    m.name: m
    for m in (
        SegmentMethod("source_only", transferred=False),
        SegmentMethod("transferred_only", source=False),
        SegmentMethod("both"),
        SegmentMethod("zodi", similar=True),
    )
}
METHODS = tuple(_KNOWN)
"""source_only, transferred_only, both (no similarity), zodi."""


class SegmentBatch(NamedTuple):
    """``source`` and ``transferred`` float32 (B, 3, h, w), normalised; empty (0, 3, h, w) where the method
    has no use for them.

    ``labels`` uint8 or int64 (B, h, w): class numbers, IGNORED elsewhere; the same for both images of a pair.
    """

    source: torch.Tensor
    transferred: torch.Tensor
    labels: torch.Tensor


def method_of(name: str) -> SegmentMethod:
    """The method of that name. Raises RecipeError, with the nearest name, for another."""
    if name not in _KNOWN:
        raise RecipeError(
            f"There is no segmentation method {name!r}.{suggest(name, METHODS)} Known are:"
            f" {', '.join(METHODS)}."
        )
    return _KNOWN[name]


def task_loss(
    logits: torch.Tensor, labels: torch.Tensor, pixels: torch.Tensor | None = None, ignore: int = IGNORED
) -> torch.Tensor:
    """Mean cross-entropy of ``logits`` (B, C, h, w) over the pixels of ``labels`` (B, h, w) that are not
    ``ignore``; 0 where all are.

    ``pixels``: divide by this number instead of by the batch's own count (:func:`labelled_pixels`).
    """
    from torch.nn.functional import cross_entropy

    labels = labels.long()
    each = cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="none")
    count = (labels != ignore).sum().clamp(min=1) if pixels is None else pixels
    return each.sum() / count


def labelled_pixels(labels: torch.Tensor) -> torch.Tensor:
    """The mean over workers of the labelled pixels of each one's part of the batch.

    A sum of losses divided by it, averaged over workers as DistributedDataParallel averages gradients, is the
    mean over the pixels of the global batch, however the void pixels are spread over the workers.
    """
    import torch.distributed as dist

    from diffadapt.compute.distributed import world_size

    count = (labels != IGNORED).sum().float()
    workers = world_size()
    if workers > 1:
        dist.all_reduce(count)
    return count.clamp(min=1) / workers


def cosine(f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """(B,): cosine of the globally average-pooled feature maps (B, F, h, w) of each pair, in float32."""
    from torch.nn.functional import normalize

    pooled = [normalize(x.float().mean((2, 3)), dim=1) for x in (f, g)]
    return (pooled[0] * pooled[1]).sum(1)


def similarity_loss(f: torch.Tensor, g: torch.Tensor, weight: float) -> torch.Tensor:
    """``-weight`` times the mean cosine of the pairs' pooled features; the gradient flows into both."""
    return -weight * cosine(f, g).mean()


def pair_losses(
    net: nn.Module, batch: SegmentBatch, method: str, training: SegmentTraining
) -> dict[str, torch.Tensor]:
    """``loss`` and what it is made of: ``task_source``, ``task_transferred``, ``similarity`` (as far as the
    method has them).

    ``net(x)`` gives (logits (B, C, h, w), features (B, F, h', w')). x and x' go through it one after the
    other, each with its own batch statistics, as in the authors' code. Where both are trained on, ``cosine``
    reports the mean cosine of their features.
    """
    kind = method_of(method)
    pixels = labelled_pixels(batch.labels)
    losses, features = {}, []
    for name, x in (
        ("source", batch.source if kind.source else None),
        ("transferred", batch.transferred if kind.transferred else None),
    ):
        if x is not None:
            logits, deepest = net(x)
            losses[f"task_{name}"] = task_loss(logits, batch.labels, pixels)
            features.append(deepest)
    if kind.similar:
        losses["similarity"] = similarity_loss(features[0], features[1], training.similarity)
    total = sum(losses.values())
    if len(features) == 2:
        losses["cosine"] = cosine(features[0].detach(), features[1].detach()).mean()
    return {"loss": total, **losses}  # type: ignore[dict-item]

"""What the semi-supervised methods share. Method files import this inside their functions, because it needs
torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diffadapt.methods.ssl.base import SslBatch, SslNet


def three_views(net: SslNet, batch: SslBatch, joint: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (labelled (B, K), weak (mu B, K) without gradient, strong (mu B, K)).

    ``joint``: one forward pass of all, so that batch norm sees one batch (USB, kekmodel); else three in the
    order weak, labelled, strong, each with statistics of its own (Transfer-Learning-Library).
    """
    (weak,), (strong,) = batch.weak, batch.strong
    if joint:
        labelled, w, s = net(torch.cat([batch.x, weak, strong])).split([len(batch.x), len(weak), len(strong)])
        return labelled, w.detach(), s
    with torch.no_grad():
        w = net(weak)
    return net(batch.x), w, net(strong)


def weighted_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """sum_i w_i CE(logits_i, targets_i) / rows, left-out rows included in the count (FixMatch equation 4)."""
    return (F.cross_entropy(logits, targets, reduction="none") * weights).mean()


def sharpen(p: torch.Tensor, temperature: float) -> torch.Tensor:
    """p^(1/T), normalised over the classes (MixMatch equation 7)."""
    powered = p ** (1.0 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy with distributions (B, K) as targets."""
    return -(F.log_softmax(logits, dim=1) * targets).sum(1).mean()


@contextmanager
def still_averages(net: SslNet) -> Iterator[None]:
    """Batch norm goes on to normalise by the batch, but its running averages do not move (USB's
    Bn_Controller)."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def interleave_order(size: int, parts: int) -> list[int]:
    """A permutation of the rows of ``parts`` batches of ``size`` rows that is its own inverse.

    The first batch gives the p-th of its ``parts`` sections to batch p and gets that batch's; so each batch
    has labelled and unlabelled rows, and batch norm never sees a labelled batch alone (MixMatch's TensorFlow
    code, ``interleave``).
    """
    sections = [size // parts] * parts
    for i in range(size - sum(sections)):
        sections[-i - 1] += 1
    order = list(range(size * parts))
    start = 0
    for part, length in enumerate(sections):
        for row in range(start, start + length):
            order[row], order[part * size + row] = order[part * size + row], order[row]
        start += length
    return order


def interleaved(net: SslNet, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of each of ``parts``, batches of as many rows, forwarded in interleaved batches of that size."""
    size = len(parts[0])
    order = torch.tensor(interleave_order(size, len(parts)), device=parts[0].device)
    logits = torch.cat([net(x) for x in torch.cat(list(parts))[order].split(size)])
    return list(logits[order].split(size))

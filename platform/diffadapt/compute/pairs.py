"""The data of one step of domain adaptation. Imports no torch when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class PairBatch(NamedTuple):
    """One step's data on this rank: ``x_s`` (B, ...) source inputs (normalised images or cached features),
    ``y_s`` int64 (B,), ``x_t`` (B, ...) target inputs; ``i_s`` and ``i_t`` int64 (B,): which items of the two
    sets they are.
    """

    x_s: torch.Tensor
    y_s: torch.Tensor
    x_t: torch.Tensor
    i_s: torch.Tensor
    i_t: torch.Tensor

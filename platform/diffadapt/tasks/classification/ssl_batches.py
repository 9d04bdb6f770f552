"""Batches of stage 2: confident images with pseudo-labels and unconfident ones, as a function of (seed, step,
rank) alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from diffadapt.core.identity import item_seed
from diffadapt.methods.ssl.base import SslBatch, SslMethod
from diffadapt.train.pair_batches import cycled
from diffadapt.train.step_batches import Share, StepBatches
from diffadapt.train.views import Views


class PseudoLabels(NamedTuple):
    """How a target is split: ``confident`` and ``unconfident`` int64 indices of it, and ``labels`` int64, one
    for each confident index."""

    confident: np.ndarray
    labels: np.ndarray
    unconfident: np.ndarray


class SslBatches(StepBatches[SslBatch]):
    """``batches(step, micro) -> SslBatch`` of this rank, on the CPU; call in any order. A context: its
    threads end with it.

    Both sets are shuffled and cycled independently (train/pair_batches.py). The views are seeded by (seed,
    role, step, place in the global batch): they do not depend on the number of workers. With ``readers``
    threads, the next batch is prepared ahead. ``unconfident`` may be empty: the batch then has no views and
    an empty ``index``.
    """

    def __init__(
        self, views: Views, split: PseudoLabels, method: SslMethod, config: Any, share: Share = Share()
    ):
        self.views, self.method, self.batch_size, self.seed = views, method, config.batch_size, config.seed
        self.pseudo_labels, self.confident, self.unconfident = (
            np.asarray(part, np.int64) for part in (split.labels, split.confident, split.unconfident)
        )
        self.share = share
        super().__init__(share.readers)

    def make(self, step: int) -> SslBatch:
        """The batch, made now."""
        m = self.method
        chosen = self._chosen(step, len(self.confident), 1, "confident")
        x = self._view(self.confident[chosen], "weak", step, "labelled")
        y = torch.from_numpy(self.pseudo_labels[chosen])
        if not (m.uses_unlabelled and len(self.unconfident)):
            return SslBatch(x, y, (), (), torch.zeros(0, dtype=torch.int64))
        chosen = self._chosen(step, len(self.unconfident), m.mu, "unconfident")
        items = self.unconfident[chosen]
        weak = tuple(self._view(items, "weak", step, f"weak{i}") for i in range(m.weak_views))
        strong = tuple(self._view(items, "strong", step, f"strong{i}") for i in range(m.strong_views))
        return SslBatch(x, y, weak, strong, torch.from_numpy(chosen))

    def _chosen(self, step: int, count: int, mu: int, name: str) -> np.ndarray:
        every = cycled(count, self.batch_size * mu, step, self.seed, name)
        return every[self.share.of(len(every))]

    def _view(self, items: np.ndarray, kind: str, step: int, role: str) -> torch.Tensor:
        rng = np.random.default_rng(item_seed(self.seed, role, str(step), "views"))
        size = len(items) * self.share.world_size
        seeds = rng.integers(1 << 62, size=size)[self.share.of(size)]
        return self.read(self.views, items, kind, seeds)

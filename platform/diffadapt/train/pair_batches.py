"""Batches of adaptation: as many source as target items, as a function of (seed, step, rank) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import Progress
from diffadapt.core.identity import item_seed
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.train.step_batches import Share, StepBatches
from diffadapt.train.views import Views


def cycled(count: int, batch: int, step: int, seed: int, name: str) -> np.ndarray:
    """Which of ``count`` items the global batch of ``step`` holds, int64 (batch,).

    Each set has its own epochs: permutations from (seed, name, epoch), whose last, incomplete batch is
    dropped. A set smaller than a batch is gone through as often as fills it.
    """

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(item_seed(seed, name, str(epoch), "order")).permutation(count)

    if count < batch:
        rounds = -(-batch // count)
        return np.concatenate([order(step * rounds + r) for r in range(rounds)])[:batch]
    epoch, within = divmod(step, count // batch)
    return order(epoch)[within * batch : (within + 1) * batch]


class PairBatches(StepBatches[PairBatch]):
    """``batches(step, micro) -> PairBatch`` of this rank, on the CPU; call in any order. A context: its
    threads end with it.

    The views are 'weak' ones, seeded by (seed, set, step, place in the global batch): they do not depend on
    the number of workers. A method's ``sample`` decides the pairs if it gives any. With ``readers`` threads,
    the next batch is prepared ahead.
    """

    def __init__(
        self, source: Views, target: Views, config: Any, net: AdaptationNetwork, share: Share = Share()
    ):
        self.source, self.target, self.config, self.net = source, target, config, net
        self.mine = share.of(config.batch_size)
        self.samples = type(net.method).sample is not UdaMethod.sample
        # a method's own pairs may depend on the step before
        super().__init__(share.readers, ahead=not self.samples)

    def make(self, step: int) -> PairBatch:
        """The batch, made now."""
        size, seed = self.config.batch_size, self.config.seed
        chosen = self._sampled(step) if self.samples else None
        if chosen is None:
            chosen = (
                cycled(len(self.source), size, step, seed, "source"),
                cycled(len(self.target), size, step, seed, "target"),
            )
        i_s, i_t = (np.asarray(i, np.int64)[self.mine] for i in chosen)
        x_s = self._views(self.source, i_s, "source", step)
        if self.net.method.uses_target:
            x_t = self._views(self.target, i_t, "target", step)
        else:
            x_t, i_t = x_s[:0], i_t[:0]
        labels = torch.from_numpy(np.asarray(self.source.labels, np.int64)[i_s])
        return PairBatch(x_s, labels, x_t, torch.from_numpy(i_s), torch.from_numpy(i_t))

    def _sampled(self, step: int) -> tuple[Any, Any] | None:
        config = self.config
        total = config.epochs * config.steps_per_epoch
        progress = Progress(step, total, config.steps_per_epoch, seed=config.seed)
        rng = np.random.default_rng(item_seed(config.seed, "pairs", str(step), "sample"))
        return self.net.method.sample(self.net, progress, rng, config.batch_size)

    def _views(self, views: Views, chosen: np.ndarray, name: str, step: int) -> torch.Tensor:
        rng = np.random.default_rng(item_seed(self.config.seed, name, str(step), "views"))
        seeds = rng.integers(1 << 62, size=self.config.batch_size)[self.mine]
        return self.read(views, chosen, "weak", seeds)

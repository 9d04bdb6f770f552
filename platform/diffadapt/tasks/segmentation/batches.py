"""Batches of segmentation training: pairs of a source and its transferred image, found by key, as a function
of (seed, step, rank) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from diffadapt.core.errors import DataError
from diffadapt.core.identity import item_seed
from diffadapt.models.segmentation.inputs import stacked
from diffadapt.tasks.segmentation.augment import PairAugment
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.tasks.segmentation.losses import SegmentBatch, SegmentMethod
from diffadapt.train.pair_batches import cycled
from diffadapt.train.step_batches import StepBatches


class SceneSet(Protocol):
    """N scenes of one size, by index; safe to read from several threads."""

    keys: Sequence[str]

    def __len__(self) -> int: ...

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(image uint8 (H, W, 3), annotation uint8 (H, W) or None)."""
        ...


@dataclass(frozen=True)
class Pairs:
    """What a method trains on: items of the source and, where it uses them, of the transferred set; equal
    places belong together."""

    source: np.ndarray
    transferred: np.ndarray
    left_out: dict[str, int]
    """How many were left out, by reason."""

    def __len__(self) -> int:
        return len(self.source)


def pair(source: SceneSet, transferred: SceneSet | None) -> Pairs:
    """Every source scene with the transferred scene of the same key, in the source's order; every source
    scene without a second set.

    Raises DataError for a key that occurs twice in a set, or where no key is in both.
    """
    places = _places(source, "source")
    if transferred is None:
        return Pairs(np.arange(len(source)), np.zeros(0, np.int64), {})
    others = _places(transferred, "transferred")
    shared = [key for key in source.keys if key in others]
    if not shared:
        raise DataError(
            f"None of the {len(source)} source scenes and {len(transferred)} transferred scenes have a key in"
            " common, so there are no pairs to train on: both must come from the same data set."
        )
    left_out = {
        "without_transferred": len(source) - len(shared),
        "without_source": len(transferred) - len(shared),
    }
    return Pairs(
        np.array([places[k] for k in shared]),
        np.array([others[k] for k in shared]),
        {k: v for k, v in left_out.items() if v},
    )


def _places(scenes: SceneSet, what: str) -> dict[str, int]:
    places = {key: i for i, key in enumerate(scenes.keys)}
    if len(places) < len(scenes):
        twice = next(key for i, key in enumerate(scenes.keys) if places[key] != i)
        raise DataError(
            f"The {what} scenes hold the key {twice!r} twice, so pairs are not clear: give every scene its"
            " own name."
        )
    return places


def steps_per_epoch(pairs: int, batch_size: int) -> int:
    """The last, incomplete batch is dropped; a set smaller than a batch makes one batch, in which pairs occur
    repeatedly."""
    return max(1, pairs // batch_size)


class SegmentBatches(StepBatches[SegmentBatch]):
    """``batches(step, micro) -> SegmentBatch`` of this rank on the CPU, images still uint8; call in any
    order. A context: its threads end with it.

    Crop, flip and jitter are seeded by (seed, step, place in the global batch): they depend neither on the
    number of workers nor on the method, so that ablations see the same crops. With ``readers`` threads, the
    next batch is prepared ahead.
    """

    def __init__(
        self, source: SceneSet, transferred: SceneSet | None, pairs: Pairs, training: SegmentTraining, method: SegmentMethod,
        rank: int = 0, world_size: int = 1, readers: int = 0,
    ):  # fmt: skip
        super().__init__(readers)
        self.source, self.transferred, self.pairs, self.training, self.method = (
            source,
            transferred,
            pairs,
            training,
            method,
        )
        self.augment = PairAugment(training)
        self.mine = slice(
            rank * training.batch_size // world_size, (rank + 1) * training.batch_size // world_size
        )

    def make(self, step: int) -> SegmentBatch:
        """The batch, made now."""
        size, seed = self.training.batch_size, self.training.seed
        chosen = cycled(len(self.pairs), size, step, seed, "pairs")[self.mine]
        seeds = np.random.default_rng(item_seed(seed, "pairs", str(step), "views")).integers(
            1 << 62, size=size
        )[self.mine]
        made = self._items(list(zip(chosen.tolist(), seeds.tolist(), strict=True)))
        labels = torch.from_numpy(np.stack([m[1] for m in made]))
        empty = torch.zeros((0, 3, *labels.shape[1:]), dtype=torch.uint8)
        x, other = (
            stacked([m[0][i] for m in made]) if uses else empty
            for i, uses in enumerate((self.method.source, self.method.transferred))
        )
        return SegmentBatch(x, other, labels)

    def _items(self, items: list[tuple[int, int]]) -> list:
        if self._pool is None or len(items) < 2:
            return [self._item(*item) for item in items]
        return [f.result() for f in [self._pool.submit(self._item, *item) for item in items]]

    def _item(self, place: int, seed: int) -> tuple[list[np.ndarray | None], np.ndarray]:
        image, annotation = self.source.get(int(self.pairs.source[place]))
        assert annotation is not None, "unlabelled scenes are left out before"
        other = (
            self.transferred.get(int(self.pairs.transferred[place]))[0]
            if self.method.transferred and self.transferred is not None
            else None
        )
        return self.augment([image if self.method.source else None, other], annotation, seed)

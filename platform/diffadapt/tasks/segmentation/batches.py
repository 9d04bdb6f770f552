"""Batches of segmentation training: pairs of a source and its transferred image, found by key, as a function
of (seed, step, rank) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from diffadapt.core.errors import DataError
from diffadapt.core.identity import item_seed
from diffadapt.models.segmentation.inputs import stacked
from diffadapt.tasks.segmentation.augment import PairAugment
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.tasks.segmentation.losses import SegmentBatch, SegmentMethod
from diffadapt.train.pair_batches import cycled
from diffadapt.train.step_batches import Share, StepBatches

B = TypeVar("B")


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


class PairedScenes(NamedTuple):
    """Both sets and which of their scenes belong together."""

    source: SceneSet
    transferred: SceneSet | None
    pairs: Pairs

    def get(
        self, place: int, uses: Sequence[bool], annotated: bool = False
    ) -> tuple[list[np.ndarray | None], np.ndarray | None]:
        """The images of one pair, of the source and transferred, where ``uses`` says so (else None), and the
        source's label map if it is wanted."""
        source, annotation = None, None
        if uses[0] or annotated:
            source, annotation = self.source.get(int(self.pairs.source[place]))
        other = None
        if uses[1] and self.transferred is not None:
            other = self.transferred.get(int(self.pairs.transferred[place]))[0]
        return [source if uses[0] else None, other], annotation


class PairedBatches(StepBatches[B]):
    """``batches(step, micro) -> B`` of this rank on the CPU, images still uint8; call in any order. A
    context: its threads end with it.

    Crop, flip and jitter are seeded by (seed, step, place in the global batch): they depend neither on the
    number of workers nor on the method, so that ablations see the same crops. ``uses``: whether the method
    trains on source images, on transferred ones.
    """

    def __init__(self, scenes: PairedScenes, training: Any, uses: tuple[bool, bool], share: Share):
        super().__init__(share.readers)
        self.scenes, self.training, self.uses = scenes, training, uses
        self.augment = PairAugment(training)
        self.mine = share.of(training.batch_size)

    def item(self, place: int, seed: int) -> tuple[list[np.ndarray | None], Any]:
        """Both augmented images of a pair and what is learnt of them."""
        raise NotImplementedError

    def items(self, step: int) -> list[tuple[list[np.ndarray | None], Any]]:
        """This rank's items of a step."""
        size, seed = self.training.batch_size, self.training.seed
        chosen = cycled(len(self.scenes.pairs), size, step, seed, "pairs")[self.mine]
        rng = np.random.default_rng(item_seed(seed, "pairs", str(step), "views"))
        seeds = rng.integers(1 << 62, size=size)[self.mine]
        items = list(zip(chosen.tolist(), seeds.tolist(), strict=True))
        if self._pool is None or len(items) < 2:
            return [self.item(*item) for item in items]
        return [f.result() for f in [self._pool.submit(self.item, *item) for item in items]]

    def stacked(self, items: list[tuple[list[np.ndarray | None], Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (B, 3, H, W) of both images; (0, 3, H, W) of one that the method does not use."""
        shown = next(x for x in items[0][0] if x is not None)
        empty = torch.zeros((0, 3, *shown.shape[:2]), dtype=torch.uint8)
        x, other = (stacked([m[0][i] for m in items]) if used else empty for i, used in enumerate(self.uses))
        return x, other


class SegmentBatches(PairedBatches[SegmentBatch]):
    """Batches of pairs with the label maps of the source."""

    def __init__(
        self,
        scenes: PairedScenes,
        training: SegmentTraining,
        method: SegmentMethod,
        share: Share = Share(),
    ):
        super().__init__(scenes, training, (method.source, method.transferred), share)

    def make(self, step: int) -> SegmentBatch:
        """The batch, made now."""
        items = self.items(step)
        return SegmentBatch(*self.stacked(items), torch.from_numpy(np.stack([m[1] for m in items])))

    def item(self, place: int, seed: int) -> tuple[list[np.ndarray | None], np.ndarray]:
        """Both augmented images of a pair and its label map."""
        images, annotation = self.scenes.get(place, self.uses, annotated=True)
        assert annotation is not None, "unlabelled scenes are left out before"
        return self.augment(images, annotation, seed)

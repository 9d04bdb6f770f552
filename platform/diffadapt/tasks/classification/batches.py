"""Batches of a labelled image set as a function of (seed, step, rank, micro), with or without reader
processes."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from diffadapt.core.errors import DataError
from diffadapt.tasks.classification.augment import Augment

PREFETCH = 2
"""Batches that wait, for each reader."""
SHARED = Path("/dev/shm")
log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """``images`` (b, C, H, W), ``labels`` int64 (b,), and the ``weight`` that turns this part's mean into its
    share of the global batch's mean: b * parts / global batch size."""

    images: torch.Tensor
    labels: torch.Tensor
    weight: float


class Batches:
    """Epochs are permutations from (seed, epoch); the last batch of an epoch may be smaller and is kept.

    A global batch is cut into world_size * accumulate parts whose sizes differ by at most one. A part that
    gets no image (fewer images than parts) holds one with weight 0, so that every rank still takes part in
    the step. An image's augmentation is seeded by (seed, epoch, its index), so it does not depend on the
    number of workers or readers.
    """

    def __init__(
        self,
        images: Sequence[Any],
        augment: Augment,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        readers: int = 0,
    ):
        """``images[i]`` is (uint8 (H, W, C), label). Raises DataError if there are none."""
        if len(images) == 0:
            raise DataError("There are no training images.")
        self.images, self.augment = images, augment
        self.count, self.batch_size = len(images), min(batch_size, len(images))
        self.seed, self.rank, self.accumulate, self.readers = seed, rank, accumulate, readers
        self.parts = world_size * accumulate
        self.steps_per_epoch = -(-self.count // self.batch_size)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._next: tuple[int, int] | None = None
        self._stream: Iterator[Batch] | None = None

    def size(self, step: int) -> int:
        """Images in the global batch of ``step``."""
        start = (step % self.steps_per_epoch) * self.batch_size
        return min(self.batch_size, self.count - start)

    def indices(self, step: int, part: int) -> np.ndarray:
        """Which images part ``part`` of ``world_size * accumulate`` holds at ``step``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng(_seed("order", self.seed, epoch))
            self._order = (epoch, rng.permutation(self.count))
        size, start = self.size(step), within * self.batch_size
        low, high = size * part // self.parts, size * (part + 1) // self.parts
        return self._order[1][start + low : start + high]

    def __call__(self, step: int, micro: int) -> Batch:
        """The batch of this rank. In-order calls are read ahead if there are readers; any order gives the
        same batches."""
        if self.readers == 0:
            return self.make(step, micro)
        if self._stream is None:
            self.readers = self._readers_with_room()
            if self.readers == 0:
                return self.make(step, micro)
        if self._stream is None or self._next != (step, micro):
            self._stream = self._read_ahead(step, micro)
        self._next = (step, micro + 1) if micro + 1 < self.accumulate else (step + 1, 0)
        return next(self._stream)

    def make(self, step: int, micro: int) -> Batch:
        """The batch, made in this process."""
        chosen = self.indices(step, self.rank * self.accumulate + micro)
        weight = len(chosen) * self.parts / self.size(step)
        if not len(chosen):
            chosen = self._order[1][:1]
        epoch = step // self.steps_per_epoch
        pairs = [self.images[int(i)] for i in chosen]
        tensors = [
            self.augment(image, _seed("augment", self.seed, epoch, int(i)))
            for (image, _), i in zip(pairs, chosen, strict=True)
        ]
        return Batch(torch.stack(tensors), torch.tensor([int(label) for _, label in pairs]), weight)

    def _readers_with_room(self) -> int:
        """As many readers as the machine's shared memory, through which they give batches, has room for."""
        if not SHARED.is_dir():
            return self.readers
        one = self.augment(self.images[0][0], 0)
        size = (PREFETCH + 1) * one.nbytes * -(-self.batch_size // self.parts)
        free = shutil.disk_usage(SHARED).free
        found = min(self.readers, int(0.8 * free) // max(1, size))
        if found < self.readers:
            log.warning(
                "%d of %d readers prepare batches, because %s has %d MB free and each needs %d MB: give the"
                " container more (docker run --shm-size), or train with smaller batches.",
                found, self.readers, SHARED, free >> 20, size >> 20,
            )  # fmt: skip
        return found

    def _read_ahead(self, step: int, micro: int) -> Iterator[Batch]:
        loader = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=_From(step, micro, self.accumulate),
            num_workers=self.readers,
            prefetch_factor=PREFETCH,
            worker_init_fn=_leave_interrupts,
            pin_memory=torch.cuda.is_available(),
        )
        for images, labels, weight in loader:
            yield Batch(images, labels, float(weight))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_next": None}


def _leave_interrupts(reader: int) -> None:
    """A reader ends with the training that started it, which decides what an interrupt means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Steps(Dataset):
    def __init__(self, batches: Batches):
        self.batches = batches

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.batches.make(*key)


class _From(Sampler):
    """(step, micro) without end, from a given one on."""

    def __init__(self, step: int, micro: int, accumulate: int):
        self.step, self.micro, self.accumulate = step, micro, accumulate

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step, micro = self.step, self.micro
        while True:
            yield step, micro
            micro += 1
            if micro == self.accumulate:
                step, micro = step + 1, 0


class Labelled:
    """An array of images (N, H, W, C) uint8 and its labels (N,) as the pairs that :class:`Batches` reads.

    Raises DataError if their lengths differ.
    """

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, labels: Sequence[int] | np.ndarray):
        if len(images) != len(labels):
            raise DataError(f"There are {len(images)} training images but {len(labels)} labels.")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])


def _seed(*what: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big") >> 1

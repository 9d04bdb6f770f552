"""What the batches of both stages share: one batch a step, the next one prepared ahead, views made by several
threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from diffadapt.train.views import Views

B = TypeVar("B")


class Share(NamedTuple):
    """Which part of every batch this process makes, and with how many threads."""

    rank: int = 0
    world_size: int = 1
    readers: int = 0

    def of(self, size: int) -> slice:
        """This rank's places among ``size``."""
        return slice(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)


class StepBatches(Generic[B]):
    """``batches(step, micro) -> B`` by :meth:`make`, in any order of steps. A context: its threads end with
    it.

    With ``readers`` threads, views are made side by side, and where ``ahead`` the next batch is prepared
    meanwhile.
    """

    def __init__(self, readers: int, ahead: bool = True):
        self.readers, self.ahead = readers, ahead
        self._pool = ThreadPoolExecutor(readers + 1) if readers else None
        self._held: tuple[int, B] | None = None
        self._next: tuple[int, Future[B]] | None = None

    def make(self, step: int) -> B:
        """The batch, made now."""
        raise NotImplementedError

    def __call__(self, step: int, micro: int = 0) -> B:
        if self._held is None or self._held[0] != step:  # a step's passes share one batch
            coming, self._next = self._next, None
            known = coming is not None and coming[0] == step
            self._held = (step, coming[1].result() if coming is not None and known else self.make(step))
            if self._pool is not None and self.ahead:
                self._next = (step + 1, self._pool.submit(self.make, step + 1))
        return self._held[1]

    def read(self, views: Views, items: np.ndarray, kind: str, seeds: np.ndarray) -> torch.Tensor:
        """``views.get(items, kind, seeds)`` but for what is left to the device (train/views.finished), in
        parts by the threads if there are any."""
        get = getattr(views, "raw", views.get)
        if self._pool is None or len(items) < 2:
            return get(items, kind, seeds)
        parts = np.array_split(np.arange(len(items)), min(self.readers, len(items)))
        made = [self._pool.submit(get, items[part], kind, seeds[part]) for part in parts]
        return torch.cat([future.result() for future in made])

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

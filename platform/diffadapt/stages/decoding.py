"""Rows of encoded images as arrays, with unreadable ones set apart: at once, or by threads ahead of who
computes with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import ItemError
from diffadapt.data.image import decode

AHEAD = 4
"""Images that wait decoded, for each thread, at least."""
Prepare = Callable[[np.ndarray, str], Any]


@dataclass
class Decoded:
    """Images (uint8 HWC, or what was made of them) with their keys and labels, and the items that could not
    be decoded or that earlier stages could not make."""

    keys: list[str]
    labels: list[int | None]
    images: list[Any]
    failures: list[Failure]


def decode_rows(
    rows: Rows, channels: int, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> Decoded:
    """Decode every image of ``rows`` to ``channels`` and apply ``prepare``; failures of ``rows`` are passed
    on."""
    found = Decoder(channels, prepare and (lambda image, key: prepare(image))).open(rows, keep=True)
    found.reach(0, len(rows))
    return found


class Decoder:
    """Opens rows whose images are decoded to ``channels`` and ``prepare(image, key)``-d in ``readers``
    threads, ahead of who asks for them; without readers when they are asked for.

    What comes out depends neither on the readers nor on how far they are ahead. Of the next rows, which
    :meth:`begin` is told of, as many are begun as may wait.
    """

    def __init__(self, channels: int, prepare: Prepare | None = None, readers: int = 0):
        self.channels, self.prepare, self.readers = channels, prepare, readers
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="decode") if readers else None
        self._begun: tuple[Rows, Decoding] | None = None

    def begin(self, rows: Rows, ahead: int = 0) -> None:
        """Decode the first of ``rows``, which are opened next."""
        if self._pool is not None:
            self._begun = (rows, Decoding(rows, self._decode, self._pool, self._most(ahead)))

    def open(
        self, rows: Rows, ahead: int = 0, keep: bool = False, order: Sequence[int] | np.ndarray | None = None
    ) -> Decoding:
        """The images of ``rows`` as they come, those of ``order`` if it is given; ``ahead`` of them (a batch)
        may wait decoded. They are let go when they have been passed, unless ``keep``."""
        begun = self._begun
        if begun is not None and begun[0] is rows:
            self._begun = None
            return begun[1]
        return Decoding(rows, self._decode, self._pool, self._most(ahead), keep, order)

    def _most(self, ahead: int) -> int:
        return max(2 * ahead, AHEAD * self.readers)

    def _decode(self, data: bytes, key: str) -> Any:
        image = decode(data, self.channels, key)
        return self.prepare(image, key) if self.prepare else image


class Decoding(Decoded):
    """Rows whose images come one after another: ``keys``, ``labels``, ``images`` and ``failures`` hold what
    has come (an image that was let go is None), :meth:`reach` makes more come."""

    def __init__(
        self,
        rows: Rows,
        decode: Callable[[bytes, str], Any],
        pool: ThreadPoolExecutor | None,
        ahead: int,
        keep: bool = False,
        order: Sequence[int] | np.ndarray | None = None,
    ):
        super().__init__([], [], [], list(rows.failures))
        self.places: list[int] = []
        """Which row each image is of."""
        self._names, self._marks = rows.column("key"), rows.column("label")
        self._stored, self._rows = rows.table.column("image"), range(len(rows)) if order is None else order
        self._decode, self._pool, self._ahead, self._keep = decode, pool, max(1, ahead), keep
        self._coming: deque[Future[Any]] = deque()
        self._taken = self._passed = 0
        self._order()

    def reach(self, start: int, stop: int) -> int:
        """``stop``, or the number of readable images where there are fewer: so many have come now. Those
        before ``start`` are not asked for again."""
        if not self._keep:
            for i in range(self._passed, min(start, len(self.images))):
                self.images[i] = None
            self._passed = max(self._passed, start)
        while len(self.keys) < stop and self._taken < len(self._rows):
            self._take()
        return min(stop, len(self.keys))

    def _take(self) -> None:
        i = int(self._rows[self._taken])
        key = self._names[i]
        self._taken += 1
        try:
            image = self._coming.popleft().result() if self._coming else self._one(i)
        except ItemError as error:
            self.failures.append(Failure(key, str(error)))
        else:
            self.images.append(image)
            self.keys.append(key)
            self.labels.append(self._marks[i])
            self.places.append(i)
        self._order()

    def _one(self, i: int) -> Any:
        return self._decode(self._stored[i].as_py()["bytes"], self._names[i])

    def _order(self) -> None:
        """As many in the threads' hands as may be ahead."""
        if self._pool is None:
            return
        first = self._taken + len(self._coming)
        for place in range(first, min(self._taken + self._ahead, len(self._rows))):
            self._coming.append(self._pool.submit(self._one, int(self._rows[place])))

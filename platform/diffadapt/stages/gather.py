"""Items of many shards for training: in memory when small, else in one Arrow file of the machine's cache,
which all workers of a machine map and which later runs find again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from diffadapt.core.errors import StoreError
from diffadapt.core.local_cache import Copy, LocalCache, Making

IN_MEMORY = 256 << 20
"""Bytes of pixels up to which items are held in memory."""
BATCH = 64
"""Rows that are written to the file together."""
FILE = "table.arrow"


class Gathered:
    """Items by number, and JSON values about them. ``table`` has the rows of items that lie on the disk."""

    def __init__(self, items: list[Any], notes: dict[str, Any], table: pa.Table | None = None):
        self.items, self.notes, self.table = items, notes, table

    def __len__(self) -> int:
        return len(self.items) if self.table is None else self.table.num_rows

    def row(self, i: int) -> dict[str, Any]:
        """One row of the table."""
        assert self.table is not None
        return self.table.slice(i, 1).to_pylist()[0]


class Gathering:
    """Takes items one by one; once they have more than ``limit`` bytes, the rows that ``row`` makes of them
    go to the copy ``name`` of the machine's cache, with the notes on them. ``name`` stands for everything
    that decides rows and notes. A context: a table that was not finished goes with it.

    Raises StoreError when the cache cannot be written.
    """

    def __init__(
        self, name: str, schema: pa.Schema, row: Callable[[Any], dict[str, Any]], limit: int = IN_MEMORY
    ):
        self.name, self.schema, self.row, self.limit = name, schema, row, limit
        self.items: list[Any] = []
        self._cache = LocalCache()
        self._stack = ExitStack()
        self._making: Making | None = None
        self._writer: Any = None
        self._bytes, self._spilled = 0, False

    def existing(self) -> Gathered | None:
        """What an earlier gathering of this name left on the disk, its content checked."""
        return None if (copy := self._cache.find(self.name)) is None else _opened(copy)

    def add(self, item: Any, size: int) -> None:
        """One more item of ``size`` bytes."""
        self._bytes += size
        self.items.append(item)
        if self._bytes > self.limit:
            self.spill()
        if self._spilled and (self._making is None or len(self.items) >= BATCH):
            self._write()

    def spill(self) -> None:
        """Let the items go to the disk, however few they are."""
        self._spilled = True

    def finish(self, notes: dict[str, Any]) -> Gathered:
        """All items with ``notes`` on them."""
        if not self._spilled:
            return Gathered(self.items, notes)
        self._write()
        if self._writer is not None:
            self._writer.close()
        assert self._making is not None
        self._making.notes.update(notes)
        self._stack.close()
        result = self.existing()
        if result is None:
            raise StoreError(
                f"The table {self.name} in {self._cache.folder} is lost as soon as it is made: set"
                " DIFFADAPT_CACHE to a folder that nothing else tidies."
            )
        return result

    def _write(self) -> None:
        """Begin the file, or add to it; where another worker has made it meanwhile, nothing is written."""
        if self._making is None:
            self._making = self._stack.enter_context(self._cache.making(self.name))
            if self._making.existing is None:
                self._writer = pa.ipc.new_file(str(self._making.folder / FILE), self.schema)
        if self._writer is not None:
            rows = [self.row(item) for item in self.items]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self.schema))
        self.items = []

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._making is not None:  # nothing when it was finished
            self._making.keep = False
        self._stack.__exit__(*error)


def _opened(copy: Copy) -> Gathered:
    table = pa.ipc.open_file(pa.memory_map(str(copy.folder / FILE))).read_all()
    return Gathered([], dict(copy.notes), table)

"""Items of many shards for training: in memory when small, else in one Arrow file on the local disk, which
all workers of a machine map and which later runs find again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

IN_MEMORY = 256 << 20
"""Bytes of pixels up to which items are held in memory."""
BATCH = 64
"""Rows that are written to the file together."""


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
    go to the file ``name``. A context: a file that was not finished goes with it."""

    def __init__(
        self, name: str, schema: pa.Schema, row: Callable[[Any], dict[str, Any]], limit: int = IN_MEMORY
    ):
        self.path = Path(tempfile.gettempdir()) / "diffadapt-cache" / f"{name}.arrow"
        self.schema, self.row, self.limit = schema, row, limit
        self.items: list[Any] = []
        self._temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        self._notes = self.path.with_suffix(".json")
        self._writer: Any = None
        self._bytes, self._spilled = 0, False

    def existing(self) -> Gathered | None:
        """What an earlier gathering of this name left on the disk."""
        if not (self.path.exists() and self._notes.exists()):
            return None
        notes = json.loads(self._notes.read_text(encoding="utf-8"))
        return Gathered([], notes, pa.ipc.open_file(pa.memory_map(str(self.path))).read_all())

    def add(self, item: Any, size: int) -> None:
        """One more item of ``size`` bytes."""
        self._bytes += size
        self.items.append(item)
        if self._bytes > self.limit:
            self.spill()
        if self._spilled and (self._writer is None or len(self.items) >= BATCH):
            self._write()

    def spill(self) -> None:
        """Let the items go to the disk, however few they are."""
        self._spilled = True

    def finish(self, notes: dict[str, Any]) -> Gathered:
        """All items with ``notes`` on them."""
        if not self._spilled:
            return Gathered(self.items, notes)
        self._write()
        self._writer.close()
        temporary = self._notes.with_name(f"{self._notes.name}.{os.getpid()}")
        temporary.write_text(json.dumps(notes), encoding="utf-8")
        os.replace(temporary, self._notes)
        os.replace(self._temporary, self.path)
        result = self.existing()
        assert result is not None
        return result

    def _write(self) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pa.ipc.new_file(str(self._temporary), self.schema)
        self._writer.write_table(pa.Table.from_pylist([self.row(i) for i in self.items], schema=self.schema))
        self.items = []

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.unlink(missing_ok=True)

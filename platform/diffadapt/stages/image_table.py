"""Images of many shards for training: decoded in memory when small, else a memory-mapped table on the local disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import ItemError
from diffadapt.core.identity import digest
from diffadapt.core.stage import InputFile
from diffadapt.data.image import decode

IN_MEMORY = 256 << 20
"""Decoded bytes up to which images are held as one array."""


class ImageTable:
    """An indexable set: ``table[i] -> (uint8 HWC, label)``. Encoded images lie in one Arrow file that all workers map."""

    def __init__(self, path: str, channels: int, prepare: Callable[[np.ndarray], np.ndarray] | None):
        self.table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        self.channels, self.prepare = channels, prepare

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        row = self.table.slice(i, 1)
        image = decode(row.column("bytes")[0].as_py(), self.channels, row.column("key")[0].as_py())
        return (self.prepare(image) if self.prepare else image), row.column("label")[0].as_py()


def load_images(
    files: Sequence[InputFile], read: Callable[[InputFile], Rows], channels: int, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[Failure]]:
    """Every readable image of ``files`` with its label (int64; -1 when unlabelled), and the unreadable ones.

    Small sets come as uint8 (N, H, W, C); larger ones as an :class:`ImageTable`.
    """
    arrays: list[np.ndarray] | None = []
    labels: list[int] = []
    failures: list[Failure] = []
    total = 0
    folder = Path(tempfile.gettempdir()) / "diffadapt-cache"
    path = folder / f"images-{digest([f.digest for f in files])}.arrow"
    for file in files:
        rows = read(file)
        failures += rows.failures
        for key, label, image in zip(rows.column("key"), rows.column("label"), rows.column("image"), strict=True):
            try:
                array = decode(image["bytes"], channels, key)
                array = prepare(array) if prepare else array
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            labels.append(-1 if label is None else label)
            total += array.nbytes
            if arrays is not None:
                arrays.append(array)
        if total > IN_MEMORY or (arrays and any(a.shape != arrays[0].shape for a in arrays)):
            return _mapped(path, files, read, channels, prepare)
    return (np.stack(arrays) if arrays else np.zeros((0, 1, 1, channels), np.uint8)), np.asarray(labels, np.int64), failures


def _mapped(path: Path, files: Sequence[InputFile], read: Callable, channels: int, prepare: Callable | None):
    schema = pa.schema([("key", pa.string()), ("label", pa.int64()), ("bytes", pa.binary())])
    failures: list[Failure] = []
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for file in files:
                rows = read(file)
                good: dict[str, list] = {"key": [], "label": [], "bytes": []}
                for key, label, image in zip(rows.column("key"), rows.column("label"), rows.column("image"), strict=True):
                    try:
                        decode(image["bytes"], channels, key)
                    except ItemError as error:
                        failures.append(Failure(key, str(error)))
                        continue
                    good["key"].append(key)
                    good["label"].append(-1 if label is None else label)
                    good["bytes"].append(image["bytes"])
                failures += rows.failures
                writer.write_table(pa.table(good, schema=schema))
        os.replace(temporary, path)
    table = ImageTable(str(path), channels, prepare)
    return table, table.table.column("label").to_numpy(), failures

"""Images of many shards for training: decoded in memory when small, else a memory-mapped table on the local
disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Sequence
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
    """An indexable set: ``table[i] -> (uint8 HWC, label)``. Encoded images lie in one Arrow file that all
    workers map."""

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
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    channels: int,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[Failure]]:
    """Every readable image of ``files`` with its label (int64; -1 when unlabelled), and the unreadable ones.

    Small sets come as uint8 (N, H, W, C); larger ones as an :class:`ImageTable`.
    """
    images, labels, _, failures = load_keyed_images(files, read, channels, prepare)
    return images, labels, failures


def load_keyed_images(
    files: Sequence[InputFile], read: Callable[[InputFile], Rows], channels: int, prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    keep: Collection[str] | None = None,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[str], list[Failure]]:  # fmt: skip
    """The same with the images' keys; only those of ``keep`` if it is given."""
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    keys: list[str] = []
    failures: list[Failure] = []
    total = 0
    for file in files:
        rows = read(file)
        failures += rows.failures
        for key, label, image in zip(
            rows.column("key"), rows.column("label"), rows.column("image"), strict=True
        ):
            if keep is not None and key not in keep:
                continue
            try:
                array = decode(image["bytes"], channels, key)
                array = prepare(array) if prepare else array
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            labels.append(-1 if label is None else label)
            keys.append(key)
            total += array.nbytes
            arrays.append(array)
        if total > IN_MEMORY or (arrays and any(a.shape != arrays[0].shape for a in arrays)):
            return _mapped(files, read, channels, prepare, keep)
    return (
        (np.stack(arrays) if arrays else np.zeros((0, 1, 1, channels), np.uint8)),
        np.asarray(labels, np.int64),
        keys,
        failures,
    )


def _mapped(
    files: Sequence[InputFile],
    read: Callable,
    channels: int,
    prepare: Callable | None,
    keep: Collection[str] | None,
):
    folder = Path(tempfile.gettempdir()) / "diffadapt-cache"
    path = (
        folder
        / f"images-{digest([[f.digest for f in files], *([] if keep is None else [sorted(keep)])])}.arrow"
    )
    schema = pa.schema([("key", pa.string()), ("label", pa.int64()), ("bytes", pa.binary())])
    failures: list[Failure] = []
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for file in files:
                rows = read(file)
                good: dict[str, list] = {"key": [], "label": [], "bytes": []}
                for key, label, image in zip(
                    rows.column("key"), rows.column("label"), rows.column("image"), strict=True
                ):
                    if keep is not None and key not in keep:
                        continue
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
    return table, table.table.column("label").to_numpy(), table.table.column("key").to_pylist(), failures

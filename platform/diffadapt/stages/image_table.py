"""Images of many shards for training, decoded in memory when small, else decoded one by one from the local
disk (stages/gather.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import ItemError
from diffadapt.core.identity import digest
from diffadapt.core.stage import InputFile
from diffadapt.data.image import decode
from diffadapt.stages.gather import Gathered, Gathering

FORMAT = 2
"""Raised when the same images would lie otherwise in a table on the disk."""
SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int64()), ("bytes", pa.binary())])
Prepare = Callable[[np.ndarray], np.ndarray]


class ImageTable:
    """An indexable set: ``table[i] -> (uint8 HWC, label)``, of encoded images on the disk."""

    def __init__(self, rows: Gathered, channels: int, prepare: Prepare | None):
        self.rows, self.channels, self.prepare = rows, channels, prepare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        row = self.rows.row(i)
        image = decode(row["bytes"], self.channels, row["key"])
        return (self.prepare(image) if self.prepare else image), row["label"]


def load_images(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    channels: int,
    prepare: Prepare | None = None,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[Failure]]:
    """Every readable image of ``files`` with its label (int64; -1 when unlabelled), and the unreadable ones.

    Small sets come as uint8 (N, H, W, C); larger ones, and those of several sizes, as an :class:`ImageTable`.
    """
    images, labels, _, failures = load_keyed_images(files, read, channels, prepare)
    return images, labels, failures


def load_keyed_images(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    channels: int,
    prepare: Prepare | None = None,
    keep: Collection[str] | None = None,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[str], list[Failure]]:
    """The same with the images' keys; only those of ``keep`` if it is given."""
    kept = [] if keep is None else [sorted(keep)]
    name = f"images-{digest([FORMAT, channels, [f.digest for f in files], *kept])}"
    with Gathering(name, SCHEMA, lambda item: dict(zip(SCHEMA.names, item, strict=False))) as gathering:
        found = gathering.existing()
        if found is None:
            failures: list[Failure] = []
            shape = None
            for file in files:
                rows = read(file)
                failures += rows.failures
                columns = (rows.column(name) for name in ("key", "label", "image"))
                for key, label, image in zip(*columns, strict=True):
                    if keep is not None and key not in keep:
                        continue
                    try:
                        array = decode(image["bytes"], channels, key)
                        array = prepare(array) if prepare else array
                    except ItemError as error:
                        failures.append(Failure(key, str(error)))
                        continue
                    shape = shape or array.shape
                    if array.shape != shape:
                        gathering.spill()
                    gathering.add((key, -1 if label is None else label, image["bytes"], array), array.nbytes)
            found = gathering.finish({"failures": [[f.key, f.reason] for f in failures]})
    failures = [Failure(*f) for f in found.notes["failures"]]
    if (table := found.table) is not None:
        images = ImageTable(found, channels, prepare)
        return images, table.column("label").to_numpy(), table.column("key").to_pylist(), failures
    keys, labels, _, arrays = zip(*found.items, strict=True) if found.items else ((),) * 4
    stacked = np.stack(arrays) if arrays else np.zeros((0, 1, 1, channels), np.uint8)
    return stacked, np.asarray(labels, np.int64), list(keys), failures

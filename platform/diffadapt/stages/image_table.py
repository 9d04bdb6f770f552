"""Images of many shards for training, decoded in memory when small, else decoded one by one from the local
disk (stages/gather.py)."""

from __future__ import annotations

import math
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.identity import digest
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.stage import InputFile
from diffadapt.data.image import decode
from diffadapt.stages.decoding import Decoder
from diffadapt.stages.gather import Gathered, Gathering

FORMAT = 2
"""Raised when the same images would lie otherwise in a table on the disk."""
SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int64()), ("bytes", pa.binary())])
RECENT = 128 << 20
"""Bytes of decoded images that are remembered."""
Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fixed:
    """A preparation after which all images are of one ``shape`` (H, W, C). ``name`` says what it does: pixels
    are found again by it."""

    name: str
    shape: tuple[int, int, int]
    function: Prepare

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.function(image)


class ImageTable:
    """An indexable set: ``table[i] -> (uint8 HWC, label)``, of encoded images on the disk; with ``shape``, of
    prepared pixels."""

    def __init__(
        self,
        rows: Gathered,
        channels: int,
        prepare: Prepare | None,
        shape: tuple[int, int, int] | None = None,
    ):
        self.rows, self.channels, self.prepare, self.shape = rows, channels, prepare, shape
        assert rows.table is not None
        self.bytes, self.labels = rows.table.column("bytes"), rows.table.column("label").to_numpy()
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held, self._lock = 0, threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if self.shape is not None:
            pixels = np.frombuffer(self.bytes[i].as_buffer(), np.uint8)
            return pixels.reshape(self.shape).copy(), int(self.labels[i])
        with self._lock:
            image = self._recent.get(i)
        if image is None:
            row = self.rows.row(i)
            image = decode(row["bytes"], self.channels, row["key"])
            image = self.prepare(image) if self.prepare else image
            self._remember(i, image)
        return image, int(self.labels[i])

    def _remember(self, i: int, image: np.ndarray) -> None:
        """For the other views of the same step, which follow soon."""
        with self._lock:
            self._held += 0 if i in self._recent else image.nbytes
            self._recent[i] = image
            while self._held > RECENT:
                self._held -= self._recent.popitem(last=False)[1].nbytes


def load_images(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    channels: int,
    prepare: Prepare | Fixed | None = None,
    readers: int = 0,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[Failure]]:
    """Every readable image of ``files`` with its label (int64; -1 when unlabelled), and the unreadable ones.

    Small sets come as uint8 (N, H, W, C); larger ones, and those of several sizes, as an :class:`ImageTable`:
    of prepared pixels where ``prepare`` is :class:`Fixed` and the machine's cache has room for them, else of
    encoded images that are decoded again every time. ``readers`` threads decode, the result is the same.
    """
    images, labels, _, failures = load_keyed_images(files, read, channels, prepare, readers=readers)
    return images, labels, failures


def load_keyed_images(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    channels: int,
    prepare: Prepare | Fixed | None = None,
    keep: Collection[str] | None = None,
    readers: int = 0,
) -> tuple[np.ndarray | ImageTable, np.ndarray, list[str], list[Failure]]:
    """The same with the images' keys; only those of ``keep`` if it is given."""
    kept = [] if keep is None else [sorted(keep)]
    what = [FORMAT, channels, [f.digest for f in files], *kept]
    name, shape = f"images-{digest(what)}", None
    if isinstance(prepare, Fixed) and _room(sum(f.shard.items for f in files) * math.prod(prepare.shape)):
        name, shape = f"pixels-{digest([*what, prepare.name, prepare.shape, PIL.__version__])}", prepare.shape

    def row(item: tuple[str, int, bytes, np.ndarray]) -> dict[str, Any]:
        key, label, data, array = item
        return {"key": key, "label": label, "bytes": data if shape is None else array.tobytes()}

    decoder = Decoder(channels, prepare and (lambda image, key: prepare(image)), readers)
    with Gathering(name, SCHEMA, row) as gathering:
        found = gathering.existing()
        if found is None:
            failures: list[Failure] = []
            first = None
            for file in files:
                rows = read(file)
                stored = rows.table.column("image")
                wanted = [i for i, key in enumerate(rows.column("key")) if keep is None or key in keep]
                decoded = decoder.open(rows, order=wanted)
                place = 0
                while decoded.reach(place, place + 1) > place:
                    array, label = decoded.images[place], decoded.labels[place]
                    data = stored[decoded.places[place]].as_py()["bytes"]
                    first = first or array.shape
                    if array.shape != first:
                        gathering.spill()
                    item = (decoded.keys[place], -1 if label is None else label, data, array)
                    gathering.add(item, array.nbytes)
                    place += 1
                failures += decoded.failures
            found = gathering.finish({"failures": [[f.key, f.reason] for f in failures]})
    failures = [Failure(*f) for f in found.notes["failures"]]
    if (table := found.table) is not None:
        images = ImageTable(found, channels, prepare, shape)
        return images, table.column("label").to_numpy(), table.column("key").to_pylist(), failures
    keys, labels, _, arrays = zip(*found.items, strict=True) if found.items else ((),) * 4
    stacked = np.stack(arrays) if arrays else np.zeros((0, 1, 1, channels), np.uint8)
    return stacked, np.asarray(labels, np.int64), list(keys), failures


def _room(size: int) -> bool:
    """Whether ``size`` bytes of pixels may lie in the machine's cache: at most half of what its copies may
    take, and of what is free on its disk."""
    cache = LocalCache()
    place = cache.folder
    while not place.exists() and place != place.parent:
        place = place.parent
    return 2 * size <= min(cache.limit(), shutil.disk_usage(place).free)

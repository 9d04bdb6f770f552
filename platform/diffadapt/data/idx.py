"""MNIST's idx files, compressed or not, as a source of PNG images."""

from __future__ import annotations

import functools
import gzip
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.location import locate, open_place
from diffadapt.data.items import Item, Source
from diffadapt.data.reading import is_file

PLACES = ("MNIST/raw", "mnist/raw", "mnist", "MNIST", "raw", "")
"""Folders below a root in which the files may lie (torchvision's first)."""


def open_idx(root: str, split: str, name: str, fingerprint: str = "auto") -> Source:
    """``split`` 'train' or 'test' of MNIST below ``root``: keys ``<digit>/<index>.png``, 28x28 grey.

    Raises DataError when the four files are missing or damaged.
    """
    images, labels = (
        _find(root, f"{'train' if split == 'train' else 't10k'}-{what}")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    digits = read_idx(labels)
    keys = [f"{digit}/{i:05d}.png" for i, digit in enumerate(digits)]
    if len(digits) != len(read_idx(images)):
        raise DataError(f"{images} and {labels} hold different numbers of images and labels: get them again.")
    index = {key: i for i, key in enumerate(keys)}
    items = tuple(Item(key, int(digits[index[key]])) for key in sorted(keys))
    return Source(name, tuple("0123456789"), items, IdxReader(images, index), fingerprint)


@dataclass(frozen=True)
class IdxReader:
    """Reads single images of an idx file, which is held in memory."""

    path: str
    index: dict[str, int]

    def read(self, key: str) -> bytes:
        from diffadapt.data.image import encode_png

        return encode_png(read_idx(self.path)[self.index[key]])

    def locality(self, key: str) -> int:
        return self.index[key]

    def total_bytes(self, keys: Sequence[str]) -> int:
        return int(read_idx(self.path).nbytes)

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        images = read_idx(self.path)
        return (
            [list(images.shape), hashlib.sha256(images.tobytes()).hexdigest()]
            if content
            else list(images.shape)
        )


@functools.lru_cache(maxsize=8)
def read_idx(path: str) -> np.ndarray:
    """The uint8 array of an idx file (.gz is unpacked), read-only. Raises DataError for a damaged file."""
    try:
        with open_place(path, "rb", DataError) as stream:
            data = stream.read()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        kind, dimensions = struct.unpack(">HBB", data[:4])[1:]
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        array = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
        if kind != 8 or not dimensions:
            raise ValueError("it holds no bytes")
        return array.reshape(shape)
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{path} is not a readable idx file ({error}): get it again.") from None


def _find(root: str, name: str) -> str:
    fs, base = locate(root, DataError)
    for place in PLACES:
        for suffix in ("", ".gz"):
            path = "/".join(p for p in (base.rstrip("/"), place, name + suffix) if p)
            if is_file(fs, path):
                return fs.unstrip_protocol(path)
    raise DataError(
        f"{root} has no {name} or {name}.gz (looked in {', '.join(p or '.' for p in PLACES)}): unpack MNIST"
        " there, as torchvision does."
    )

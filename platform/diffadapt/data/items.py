"""Image sets as values: sorted items, bytes by key, a fingerprint of the content."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.identity import digest
from diffadapt.data.hashes import hash_order
from diffadapt.data.image import decode, eight_bits
from diffadapt.data.looks import Look
from diffadapt.data.prepare import prepare
from diffadapt.data.reading import reading

CONTENT_LIMIT = 1 << 30
"""Bytes up to which ``fingerprint="auto"`` hashes the content."""


@dataclass(frozen=True)
class Item:
    """One image: its relative posix path (or a name of that form), and its label or None."""

    key: str
    label: int | None


class Reader(Protocol):
    """Where the bytes of a source lie."""

    def read(self, key: str) -> bytes:
        """The encoded image; raises ItemError when it cannot be read."""

    def locality(self, key: str) -> Any:
        """A sort key: reading in this order is fastest."""

    def total_bytes(self, keys: Sequence[str]) -> int:
        """The bytes that hashing the content of ``keys`` would read."""

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        """A JSON value that changes when the content (or else the size) of any of ``keys`` changes."""


def looked(reader: Any, keys: Sequence[Any], content: bool) -> Look:
    """What there is to mind in the images of a reader; those that are drawn here have nothing, and no method
    ``looked``."""
    ask = getattr(reader, "looked", None)
    return ask(keys, content) if ask else Look()


@dataclass(frozen=True)
class Source:
    """A set of images. ``items`` are sorted by key; ``class_names[label]`` is a label's name."""

    name: str
    class_names: tuple[str, ...]
    items: tuple[Item, ...]
    reader: Reader
    fingerprint_mode: str = "auto"
    numbered: bool = False
    """The labels are numbers without names: ``class_names`` only counts them."""
    notes: tuple[str, ...] = ()
    """What whoever gave the place should know of what was found there, a sentence each."""

    @functools.cached_property
    def labels(self) -> dict[str, int | None]:
        """Label by key."""
        return {item.key: item.label for item in self.items}

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with the keys, labels, class names or content; not with the place.

        DataConfig.fingerprint says whether content means bytes or sizes; auto: bytes up to CONTENT_LIMIT.
        """
        keys = [item.key for item in self.items]
        with reading(self.name):
            content, seen = self.by_content, self.looked.identity()
            files = self.reader.identities(keys, content)
        return digest(
            {
                "by": "content" if content else "size",
                "classes": list(self.class_names),
                "items": [[item.key, item.label] for item in self.items],
                "files": files,
                **seen,
            }
        )

    @functools.cached_property
    def by_content(self) -> bool:
        """Whether the fingerprint is one of all bytes."""
        keys = [item.key for item in self.items]
        return self.fingerprint_mode == "content" or (
            self.fingerprint_mode == "auto" and self.reader.total_bytes(keys) <= CONTENT_LIMIT
        )

    @functools.cached_property
    def looked(self) -> Look:
        """What there is to mind when these images are decoded."""
        return looked(self.reader, [item.key for item in self.items], self.by_content)

    def encoded(self, key: str) -> bytes:
        """As :meth:`read`, 16-bit samples scaled to 8 bits by the one rule of this set."""
        return eight_bits(self.read(key), key, lambda: self.looked.depth)

    def read(self, key: str) -> bytes:
        """The encoded bytes of one image. Raises DataError for a key that is not in this source."""
        if key not in self.labels:
            raise DataError(f"{self.name} has no image {key!r}: only keys that it lists can be read.")
        return self.reader.read(key)

    def image(self, key: str, channels: int, size: int | None) -> np.ndarray:
        """One image as uint8 (H, W, channels); with ``size``, (size, size, channels) by ADM's preprocessing.

        Raises ItemError for an unreadable image.
        """
        array = decode(self.encoded(key), channels, key)
        if size is None or array.shape[:2] == (size, size):
            return array
        return np.asarray(prepare(array, size))

    def select(self, part: tuple[float, float] = (0.0, 1.0), limit_per_class: int | None = None) -> Source:
        """The slice ``part`` of every class in the hash order of its keys, then at most ``limit_per_class``
        of it.

        Slices that share a bound are disjoint and together complete, and a larger limit only adds images.
        Unlabelled images count as one class. Raises RecipeError for bounds outside 0 <= from < to <= 1 or a
        limit below 1, and DataError when nothing is left.
        """
        low, high = part
        if not 0.0 <= low < high <= 1.0:
            raise RecipeError(f"part is {part}, but must be two fractions with 0 <= from < to <= 1.")
        if limit_per_class is not None and limit_per_class < 1:
            raise RecipeError(f"limit_per_class is {limit_per_class}, but must be at least 1.")
        if (low, high) == (0.0, 1.0) and limit_per_class is None:
            return self
        groups: dict[int | None, list[str]] = {}
        for item in self.items:
            groups.setdefault(item.label, []).append(item.key)
        kept: set[str] = set()
        for keys in groups.values():
            n = len(keys)
            chosen = hash_order(keys)[int(low * n + 0.5) : int(high * n + 0.5)]
            kept.update(chosen[:limit_per_class])
        if not kept:
            raise DataError(f"{self.name} has no images in the part {part}: widen it or add images.")
        return replace(self, items=tuple(item for item in self.items if item.key in kept))

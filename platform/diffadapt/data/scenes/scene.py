"""Scenes as values: items and the source that lists them, their raw files, and a decoded scene."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from diffadapt.core.identity import digest
from diffadapt.data.items import CONTENT_LIMIT, Reader, looked
from diffadapt.data.looks import Look
from diffadapt.data.reading import reading
from diffadapt.data.scenes.table import ClassTable


@dataclass(frozen=True)
class SceneItem:
    """One scene: its key (relative path without suffix), and the names of its files for the reader; None: it
    has none."""

    key: str
    image: str
    label: str | None = None
    colours: str | None = None


class RawScene(NamedTuple):
    """What lies on disk, encoded; ``objects`` are dicts of category, bbox (x1, y1, x2, y2) in pixels and
    crowd."""

    image: bytes
    label: bytes | None = None
    colours: bytes | None = None
    objects: list[dict[str, Any]] | None = None


class SceneReader(Protocol):
    """Where scenes lie."""

    def read(self, item: SceneItem) -> RawScene:
        """Raises ItemError for what cannot be read."""

    def image(self, item: SceneItem) -> bytes:
        """The encoded image alone; raises ItemError."""

    def total_bytes(self, items: Sequence[SceneItem]) -> int:
        """The bytes that hashing the content of ``items`` would read."""

    def identities(self, items: Sequence[SceneItem], content: bool) -> list[Any]:
        """A JSON value that changes when the content (or else the size) of a file of ``items`` changes."""


@dataclass(frozen=True)
class SceneSource:
    """Scenes sorted by key. ``classes`` is what users see; ``reading`` says what the values of these label
    files mean."""

    name: str
    items: tuple[SceneItem, ...]
    classes: ClassTable
    reading: ClassTable
    reader: SceneReader
    labelled: bool = True
    """Every scene ought to have a label map: one without is a failed item."""
    raw_colours: bool = False
    """Label files hold Cityscapes' labelIds, whose raw colours are painted where the data have no file of
    them."""
    mode: str = "auto"
    notes: tuple[str, ...] = ()
    """What whoever gave the place should know of what was found there, a sentence each."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with the keys or the content, not with the place;
        SceneConfig.fingerprint says whether content means bytes or sizes (auto: bytes up to CONTENT_LIMIT).
        """
        with reading(self.name):
            content, seen = self.by_content, self.looked.identity()
            files = self.reader.identities(self.items, content)
        items = [[i.key, i.image, i.label, i.colours] for i in self.items]
        return digest({"by": "content" if content else "size", "items": items, "files": files, **seen})

    @functools.cached_property
    def by_content(self) -> bool:
        """Whether the fingerprint is one of all bytes."""
        return self.mode == "content" or (
            self.mode == "auto" and self.reader.total_bytes(self.items) <= CONTENT_LIMIT
        )

    @functools.cached_property
    def looked(self) -> Look:
        """What there is to mind when these files are decoded."""
        return looked(self.reader, self.items, self.by_content)


@dataclass(frozen=True)
class SceneFiles:
    """Scenes of one image file, at most one label file and at most one file of raw colours each; a scene's
    names are keys of ``files``."""

    files: Reader

    def read(self, item: SceneItem) -> RawScene:
        image, label, colours = (
            None if name is None else self.files.read(name) for name in (item.image, item.label, item.colours)
        )
        return RawScene(image or b"", label, colours)

    def image(self, item: SceneItem) -> bytes:
        return self.files.read(item.image)

    def total_bytes(self, items: Sequence[SceneItem]) -> int:
        return self.files.total_bytes(_names(items))

    def identities(self, items: Sequence[SceneItem], content: bool) -> list[Any]:
        return self.files.identities(_names(items), content)

    def looked(self, items: Sequence[SceneItem], content: bool) -> Look:
        """The turns of all files, the bits of the images."""
        images = [i.image for i in items]
        maps = [name for i in items for name in (i.label, i.colours) if name is not None]
        return looked(self.files, images, content) + Look(looked(self.files, maps, content).turned)


def _names(items: Sequence[SceneItem]) -> list[str]:
    return [name for i in items for name in (i.image, i.label, i.colours) if name is not None]


@dataclass
class Scene:
    """One decoded scene."""

    key: str
    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    annotation: np.ndarray | None = None
    """uint8 (H, W): class numbers, IGNORED where none; None: no truth."""
    colours: np.ndarray | None = None
    """uint8 (H, W, 3): the data set's own colour map, alpha composited on white; None: it has none."""
    objects: list[dict[str, Any]] | None = None
    """Dicts of category, bbox (x1, y1, x2, y2) in pixels and crowd; None: not known."""

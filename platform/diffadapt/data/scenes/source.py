"""One view over scenes in any layout: sorted items, their raw files by item, a fingerprint of the content."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import fsspec

from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.core.identity import digest
from diffadapt.data.folder import FileReader
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.label_maps import image_size
from diffadapt.data.source import CONTENT_LIMIT


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

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with the keys or the content, not with the place;
        SceneConfig.fingerprint says whether content means bytes or sizes (auto: bytes up to CONTENT_LIMIT).
        """
        try:
            content = self.mode == "content" or (
                self.mode == "auto" and self.reader.total_bytes(self.items) <= CONTENT_LIMIT
            )
            files = self.reader.identities(self.items, content)
        except OSError as error:
            raise DataError(
                f"A file of {self.name} cannot be read ({error}): check the disk and the rights, then run the"
                " same command."
            ) from None
        items = [[i.key, i.image, i.label, i.colours] for i in self.items]
        return digest({"by": "content" if content else "size", "items": items, "files": files})


@dataclass(frozen=True)
class SceneFiles:
    """Scenes of one image file, at most one label file and at most one file of raw colours each."""

    files: FileReader

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


def _names(items: Sequence[SceneItem]) -> list[str]:
    return [name for i in items for name in (i.image, i.label, i.colours) if name is not None]


def open_scenes(config: SceneConfig) -> SceneSource:
    """The scenes that ``config`` names, after ``only_size`` and ``limit``. Raises DataError or RecipeError in
    one sentence."""
    for name in ("size", "only_size"):
        height, width = getattr(config, name)
        if min(height, width) < 0 or (height == 0) != (width == 0):
            raise RecipeError(
                f"{name} is {height}, {width}, but must be a height and a width in pixels, or 0, 0 for images"
                " as they are."
            )
    if config.limit is not None and config.limit < 1:
        raise RecipeError(f"limit is {config.limit}, but must be at least 1.")
    from diffadapt.data.scenes.official import check_names

    check_names(config)
    if config.layout == "streets":
        from diffadapt.worlds.streets.layout import open_streets

        source = open_streets(config)
    elif not config.path:
        raise DataError(
            "The path of the scenes is empty: give the root folder of the data set in the layout"
            f" {config.layout!r}."
        )
    elif config.path.startswith("embedded:"):
        raise DataError(
            f"{config.path} is not a place on disk: with it the layout must be 'streets', but it is"
            f" {config.layout!r}."
        )
    else:
        source = _layouts()[config.layout](config)
    return _select(source, config)


def _layouts() -> Mapping[str, Callable[[SceneConfig], SceneSource]]:
    from diffadapt.data.scenes.coco import open_coco
    from diffadapt.data.scenes.folder import open_folder
    from diffadapt.data.scenes.official import FORMS, open_official
    from diffadapt.data.scenes.parquet import open_parquet

    return {
        "folder": open_folder,
        "parquet": open_parquet,
        "coco": open_coco,
        **dict.fromkeys(FORMS, open_official),
    }


def open_location(path: str) -> tuple[Any, str]:
    """(fsspec file system, path on it). Raises DataError for a location that cannot be opened or does not
    exist."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        root = root.rstrip("/") or "/"
        if not fs.exists(root):
            raise DataError(f"{path} does not exist: check the path.")
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be opened ({error}): check the location and its protocol.") from None
    return fs, root


def source_name(root: str) -> str:
    return posixpath.splitext(posixpath.basename(root.rstrip("/")))[0] or "scenes"


def _select(source: SceneSource, config: SceneConfig) -> SceneSource:
    items = tuple(sorted(source.items, key=lambda i: i.key))
    if not items:
        raise DataError(
            f"{config.path or source.name} holds no scenes in the layout {config.layout!r}: check the path,"
            " the split and the filters."
        )
    if config.only_size != (0, 0):
        items = _of_size(replace(source, items=items), config.only_size)
    if config.limit is not None and config.limit < len(items):
        items = tuple(items[i * len(items) // config.limit] for i in range(config.limit))
    return replace(source, items=items, mode=config.fingerprint)


def _of_size(source: SceneSource, wanted: tuple[int, int]) -> tuple[SceneItem, ...]:
    """Items whose images have the size ``wanted``; those that cannot be read stay, so that they are set apart
    and named later."""

    def size(item: SceneItem) -> tuple[int, int] | None:
        try:
            return image_size(source.reader.image(item), item.key)
        except (ItemError, OSError):
            return None

    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size, source.items))
    kept = tuple(i for i, s in zip(source.items, sizes, strict=True) if s is None or s == wanted)
    if not kept:
        found = next(s for s in sizes if s is not None)
        raise DataError(
            f"No image of {source.name} is {wanted[0]} x {wanted[1]} pixels (height x width; the first is"
            f" {found[0]} x {found[1]}): correct only_size."
        )
    return kept

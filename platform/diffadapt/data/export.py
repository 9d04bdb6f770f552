"""Folder trees that other tools read, from rows of (key, label, image bytes)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import fsspec

from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest
from diffadapt.core.location import locate, there
from diffadapt.core.spreadsheet import csv_bytes
from diffadapt.data.config import CORRUPTIONS
from diffadapt.data.image import image_suffix

Layout = Literal["imagefolder", "imagenet-c-syn", "flat"]
MOST_BYTES = 255
"""Of a file's or folder's name, on most file systems."""
_DRIVE = re.compile(r"^[A-Za-z]:")


def write_tree(
    rows: Iterable[tuple[str, int | None, bytes]],
    out: str,
    layout: Layout = "imagefolder",
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write encoded images under the folder ``out`` (any fsspec location) and return how many.

    - imagefolder: ``{class}/{key without its own class folder}``, for torchvision, timm and others; needs
      labels and ``class_names``.
    - imagenet-c-syn: ``{corruption}/{severity}/{wnid}/{name}``, the key as it is: the SDA authors' layout of
      projected ImageNet-C, and of ImageNet-C itself.
    - flat: ``{key with / as __}`` and ``labels.csv`` (file, label, class).

    The suffix follows the bytes' real format; a name that is too long for a file is shortened. Raises
    DataError for keys that would leave the folder, two images at one place, missing labels or names, keys
    that do not fit the layout, bytes that are no image (ItemError), or a folder that already holds files
    unless ``overwrite``.
    """
    if layout not in ("imagefolder", "imagenet-c-syn", "flat"):
        raise DataError(f"There is no layout {layout!r}; known are imagefolder, imagenet-c-syn and flat.")
    fs, root = locate(out, DataError)
    if not overwrite and there(fs, root) and fs.ls(root, detail=False):
        raise DataError(f"{out} already holds files: name an empty folder, or allow overwriting.")
    if layout == "imagefolder":
        for name in class_names or ():
            _class_folder(name)
    written: dict[str, tuple[str, int | None]] = {}
    for key, label, data in rows:
        place = fitting(_with_suffix(_place(safe_key(key), label, layout, class_names), data, key))
        if place in written:
            raise DataError(
                f"{key} and {written[place][0]} would both be written to {place}: make their names differ."
            )
        written[place] = (key, label)
        _put(fs, posixpath.join(root, place), data)
    if layout == "flat":
        _put(fs, posixpath.join(root, "labels.csv"), _table(written, class_names))
    return len(written)


def safe_key(key: str) -> str:
    """``key`` if it is a relative posix path that stays inside a folder on every system, else DataError."""
    parts = key.split("/")
    bad = (
        not key
        or "\\" in key
        or _DRIVE.match(key) is not None
        or any(p in ("", ".", "..") for p in parts)
        or any(ord(c) < 32 or ord(c) == 127 for c in key)
    )
    if bad:
        raise DataError(
            f"{key!r} is not a relative path inside the output folder, so it is not written: rename the"
            " image."
        )
    return key


def fitting(path: str, room: int = 0) -> str:
    """``path`` with every part that no file's name can hold (over 255 bytes, ``room`` left for what is
    added to it) cut, and told from its like by a digest; its suffix stays."""
    return "/".join(_cut(part, MOST_BYTES - room) for part in path.split("/"))


def _cut(name: str, most: int) -> str:
    if len(_bytes(name)) <= most:
        return name
    suffix = posixpath.splitext(name)[1]
    end = f"-{digest(name, 12)}{suffix if len(suffix.encode()) < 12 else ''}"
    return _bytes(name)[: most - len(end.encode())].decode(errors="ignore") + end


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _place(key: str, label: int | None, layout: str, class_names: Sequence[str] | None) -> str:
    if layout == "imagenet-c-syn":
        parts = key.split("/")
        if len(parts) != 4 or parts[0] not in CORRUPTIONS or parts[1] not in ("1", "2", "3", "4", "5"):
            raise DataError(
                f"{key} does not fit the layout: imagenet-c-syn needs corruption/severity/wnid/name."
            )
        return key
    if layout == "flat":
        return key.replace("/", "__")
    if label is None or class_names is None or not 0 <= label < len(class_names):
        raise DataError(
            f"{key} has the label {label}, which names no class folder: imagefolder needs labels and class"
            " names."
        )
    name = _class_folder(class_names[label])
    return posixpath.join(name, key.removeprefix(f"{name}/").replace("/", "__"))


def _class_folder(name: str) -> str:
    """``name`` if a folder can have it and programs that read class folders will see it, else DataError."""
    what = (
        "holds a slash"
        if "/" in name
        else (
            "begins with a dot"
            if name.startswith(".")
            else "is longer than 255 bytes"
            if len(name.encode()) > MOST_BYTES
            else ""
        )
    )
    if what:
        raise DataError(
            f"The class name {name if len(name) < 60 else name[:60] + '...'!r} {what}, so it cannot be one"
            " folder: export with --layout flat, or rename the class."
        )
    return safe_key(name)


def _with_suffix(place: str, data: bytes, key: str) -> str:
    suffixes = image_suffix(data, key)
    stem, suffix = posixpath.splitext(place)
    if suffix.lower() in suffixes:
        return place
    known = suffix.lower() in (
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    )
    return (stem if known else place) + suffixes[0]


def _put(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    fs.makedirs(posixpath.dirname(path), exist_ok=True)
    fs.pipe_file(path, data)


def _table(written: dict[str, tuple[str, int | None]], class_names: Sequence[str] | None) -> bytes:
    rows: list[tuple[object, ...]] = [("file", "label", "class")]
    for place, (_, label) in sorted(written.items()):
        name = class_names[label] if class_names and label is not None else ""
        rows.append((place, "" if label is None else label, name))
    return csv_bytes(rows)

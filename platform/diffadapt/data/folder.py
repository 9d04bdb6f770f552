"""Image sets on disk or in an object store: class folders, flat folders, globs; Parquet is handed to
parquet.py."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.config import DataConfig
from diffadapt.data.hashes import hash_files
from diffadapt.data.labels import bind_names, read_class_list
from diffadapt.data.source import Item, Source

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File names that count as images (torchvision's list); hidden files and all others are ignored."""


def scan_location(config: DataConfig, subset: bool = False) -> Source:
    """The images at an fsspec location.

    A folder with sub-folders is read as ImageFolder does: the first path component is the class, files beside
    the class folders are ignored. A folder without them, a glob, and any folder unless ``config.labels`` is
    'auto', hold unlabelled images. ``subset``: folders may lack classes of the class list. Raises DataError.
    """
    try:
        fs, root = fsspec.core.url_to_fs(config.path)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(
            f"{config.path} cannot be opened ({error}): check the location and its protocol."
        ) from None
    root = root.rstrip("/") or "/"
    try:
        if _is_local(fs):
            root = os.path.realpath(root)
        if fs.isfile(root):
            return _file(config, fs, root, subset)
        if fs.isdir(root):
            return _folder(config, fs, root, subset)
        if any(c in root for c in "*?["):
            return _glob(config, fs, root)
    except (OSError, PermissionError) as error:
        raise DataError(f"{config.path} cannot be listed ({error}).") from None
    raise DataError(f"{config.path} does not exist: check the path.")


@dataclass(frozen=True)
class FileReader:
    """One file an image; ``paths[key]`` is its path on ``fs``."""

    fs: Any
    root: str
    paths: dict[str, str]

    def read(self, key: str) -> bytes:
        try:
            return self.fs.cat_file(self.paths[key])
        except OSError as error:
            raise ItemError(f"{key} cannot be read ({error.strerror or error}).") from None

    def locality(self, key: str) -> str:
        return key

    def total_bytes(self, keys: Sequence[str]) -> int:
        return sum(self._size(k) for k in keys)

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        if not content:
            return [self._size(k) for k in keys]
        hashes = hash_files(self.fs, self.root, [self.paths[k] for k in keys])
        return [hashes[self.paths[k]] for k in keys]

    def _size(self, key: str) -> int:
        return os.stat(self.paths[key]).st_size if _is_local(self.fs) else self.fs.size(self.paths[key])


def _file(config: DataConfig, fs: Any, path: str, subset: bool) -> Source:
    if path.endswith(".parquet"):
        from diffadapt.data.parquet import scan_parquet

        return scan_parquet(config, fs, path, {posixpath.basename(path): path}, subset)
    raise DataError(
        f"{config.path} is a file but not Parquet: give a folder of images, a Parquet file or a glob."
    )


def _folder(config: DataConfig, fs: Any, root: str, subset: bool) -> Source:
    folders, files = list_tree(fs, root)
    parquet = {k: p for k, p in files.items() if k.endswith(".parquet")}
    images = {k: p for k, p in files.items() if k.lower().endswith(SUFFIXES)}
    in_classes = {k: p for k, p in images.items() if "/" in k}
    if parquet and not in_classes:
        from diffadapt.data.parquet import scan_parquet

        return scan_parquet(config, fs, root, parquet, subset)
    if not folders or config.labels != "auto":
        return _unlabelled(config, fs, root, images)
    if not in_classes:
        raise DataError(f"{config.path} holds no images in its sub-folders ({', '.join(SUFFIXES)}).")
    filled = {k.split("/", 1)[0] for k in in_classes}
    empty = sorted(set(folders) - filled)
    if empty:
        raise DataError(
            f"The class folder {posixpath.join(config.path, empty[0])} holds no images: fill or remove it."
        )
    listed = read_class_list(config.classes) if config.classes else None
    names, label = bind_names(folders, listed, config.path, subset)
    items = tuple(Item(k, label[k.split("/", 1)[0]]) for k in sorted(in_classes))
    return Source(_name(root), names, items, FileReader(fs, root, in_classes), config.fingerprint)


def _glob(config: DataConfig, fs: Any, pattern: str) -> Source:
    fixed = []
    for part in pattern.split("/"):
        if any(c in part for c in "*?["):
            break
        fixed.append(part)
    root = "/".join(fixed) or "/"
    paths = [p for p in fs.glob(pattern) if p.lower().endswith(SUFFIXES) and fs.isfile(p)]
    images: dict[str, str] = {}
    for path in paths:
        key = posixpath.relpath(path, root)
        if any(part.startswith(".") for part in key.split("/")):
            continue
        if _is_local(fs):
            _stay_inside(path, os.path.realpath(root))
        images[key] = path
    return _unlabelled(config, fs, root, images)


def _unlabelled(config: DataConfig, fs: Any, root: str, images: dict[str, str]) -> Source:
    if not images:
        raise DataError(f"{config.path} holds no images ({', '.join(SUFFIXES)}).")
    names = read_class_list(config.classes) if config.classes else ()
    return Source(
        _name(root),
        names,
        tuple(Item(k, None) for k in sorted(images)),
        FileReader(fs, root, images),
        config.fingerprint,
    )


def list_tree(fs: Any, root: str) -> tuple[list[str], dict[str, str]]:
    """The names of the sub-folders directly under ``root``, and every file below it as relative key -> path.

    Names that begin with a dot are left out. Raises DataError for a symbolic link that leads out of ``root``.
    """
    if _is_local(fs):
        return _list_local(root)
    files: dict[str, str] = {}
    folders: set[str] = set()
    for path, info in fs.find(root, withdirs=True, detail=True).items():
        key = posixpath.relpath(path, root)
        parts = key.split("/")
        if key == "." or any(p.startswith(".") for p in parts):
            continue
        if info["type"] == "directory":
            folders.add(parts[0])
        else:
            files[key] = path
            if len(parts) > 1:
                folders.add(parts[0])
    return sorted(folders), files


def _list_local(root: str) -> tuple[list[str], dict[str, str]]:
    folders: list[str] = []
    files: dict[str, str] = {}
    pending = [("", root)]
    seen = {os.path.realpath(root)}
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _stay_inside(entry.path, root)
                key = f"{prefix}{entry.name}"
                if entry.is_dir():
                    if not prefix:
                        folders.append(entry.name)
                    # A link to a folder above would otherwise be followed round and round.
                    real = os.path.realpath(entry.path)
                    if not (entry.is_symlink() and real in seen):
                        seen.add(real)
                        pending.append((f"{key}/", entry.path))
                elif entry.is_file():
                    files[key] = entry.path
    return sorted(folders), files


def _stay_inside(path: str, root: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise DataError(f"{path} is a link that leads out of {root}: copy the images into the folder.")


def _is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))


def _name(root: str) -> str:
    return posixpath.splitext(posixpath.basename(root.rstrip("/")))[0] or "images"

"""Image sets opened: class folders, flat folders, globs and Parquet on disk or in an object store, and the
embedded digits."""

from __future__ import annotations

import os
import posixpath
from typing import Any

from diffadapt.core.errors import DataError
from diffadapt.core.location import locate
from diffadapt.data.config import DataConfig
from diffadapt.data.embedded import open_digits
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, label_from_csv, read_class_list
from diffadapt.data.parquet import scan_parquet
from diffadapt.data.readers import SUFFIXES, FileReader, is_local, list_tree, stay_inside


def open_source(config: DataConfig, subset: bool = False) -> Source:
    """The images that ``config`` names, cut to its ``part`` and ``limit_per_class``; ``subset`` as in
    :func:`scan`.

    Raises DataError for a place that is missing, empty or inconsistent, RecipeError for values out of range.
    """
    return scan(config, subset).select(config.part, config.limit_per_class)


def scan(config: DataConfig, subset: bool = False) -> Source:
    """All images under ``config.path``, before ``part`` and ``limit_per_class``; with ``subset``, classes of
    the class list may be absent. ``config.labels`` decides whether the labels that lie with the images count,
    or those of a CSV file, or none.
    """
    if not config.path:
        raise DataError("data.path is empty: give a folder, a Parquet file, a glob or embedded:digits.")
    if config.path.startswith("embedded:"):
        source = open_digits(config, subset)
    else:
        source = scan_location(config, subset)
    if config.labels in ("auto", "none"):
        return source
    return label_from_csv(source, config.labels, source.class_names or None)


def scan_location(config: DataConfig, subset: bool = False) -> Source:
    """The images at an fsspec location.

    A folder with sub-folders is read as ImageFolder does: the first path component is the class, files beside
    the class folders are ignored. A folder without them, a glob, and any folder unless ``config.labels`` is
    'auto', hold unlabelled images. ``subset``: folders may lack classes of the class list. Raises DataError.
    """
    try:
        fs, root = locate(config.path, DataError)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(
            f"{config.path} cannot be opened ({error}): check the location and its protocol."
        ) from None
    root = root.rstrip("/") or "/"
    try:
        if is_local(fs):
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


def _file(config: DataConfig, fs: Any, path: str, subset: bool) -> Source:
    if path.endswith(".parquet"):
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
        if is_local(fs):
            stay_inside(path, os.path.realpath(root))
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


def _name(root: str) -> str:
    return posixpath.splitext(posixpath.basename(root.rstrip("/")))[0] or "images"

"""Image sets opened: class folders, flat folders, globs and Parquet on disk or in an object store, and the
embedded digits."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from diffadapt.core import credentials
from diffadapt.core.errors import DataError
from diffadapt.core.location import locate, reads_fail
from diffadapt.core.redact import redact, told
from diffadapt.data.archive_files import ArchiveFiles, is_archive, open_archives
from diffadapt.data.archives.base import endings
from diffadapt.data.config import DataConfig
from diffadapt.data.embedded import open_digits
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, label_from_csv, read_class_list, some
from diffadapt.data.parquet import holds_images, scan_parquet
from diffadapt.data.readers import (
    SUFFIXES,
    FileReader,
    is_local,
    is_utf8,
    left_out,
    no_file,
    readable,
    stay_inside,
    walk,
)
from diffadapt.data.reading import is_file, kind_of
from diffadapt.data.webdataset import has_labels, scan_samples

MOST_PARTS = 10_000


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
    the class folders are left out; where the folders are the splits of a data set (train, val, ...),
    ``config.split`` chooses one. What is left out is in the source's notes. A folder without them, a glob,
    and any folder unless ``config.labels`` is 'auto', hold unlabelled images. ``subset``: folders may lack
    classes of the class list. Raises DataError.
    """
    try:
        fs, root = locate(config.path, DataError)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(
            f"{config.path} cannot be opened ({error}): check the location and its protocol."
        ) from None
    given = root = root.rstrip("/") or "/"
    if not is_utf8(root):
        raise DataError(f"{readable(root)} has a name that is not UTF-8: rename the folder.")
    try:
        if is_local(fs):
            root = os.path.realpath(root)
        found = kind_of(fs, root)
        if "{" in root and not found:
            return _named(config, fs, braces(root), subset)
        if found == "file" and is_archive(given):
            return _archives(config, fs, [given], subset)
        if found == "file":  # what a link of a Hugging Face cache leads to has no suffix
            return _file(config, fs, root if root.endswith(".parquet") else given, subset)
        if found:
            return _folder(config, fs, root, subset)
        if any(c in root for c in "*?["):
            return _glob(config, fs, root, subset)
    except Exception as error:
        if not reads_fail(error):
            raise
        where = redact(config.path)
        said = credentials.refused(error, f"the data {where}")
        raise DataError(said or f"{where} cannot be listed ({told(error, where)}).") from None
    raise DataError(f"{config.path} does not exist: check the path.")


def _named(config: DataConfig, fs: Any, paths: Sequence[str], subset: bool) -> Source:
    """The archives of a name with braces, as webdataset writes them. Raises DataError for one that is not
    there."""
    lost = [path for path in paths if not (is_archive(path) and is_file(fs, path))]
    if lost:
        raise DataError(
            f"{config.path} stands for {len(paths):,} archives, of which {len(lost):,} are not there, such as"
            f" {some(lost, 3)}: check the numbers."
        )
    return _archives(config, fs, paths, subset)


def _archives(config: DataConfig, fs: Any, paths: Sequence[str], subset: bool) -> Source:
    """The members of archives, read as the files of a folder are."""
    files = open_archives(fs, paths)
    keys = {posixpath.relpath(path, files.root): path for path in files.find(files.root)}
    name = posixpath.basename(files.root.rstrip("!"))
    name = name.partition(".")[0] or "images"
    try:
        if config.labels == "auto" and has_labels(files, keys):
            source = scan_samples(config, files, keys, name, subset)
        else:
            source = replace(_folder(config, files, files.root, subset), name=name)
    except DataError as error:
        if not files.notes:
            raise
        raise type(error)(f"{error} {' '.join(files.notes)}") from None
    return _noted(source, files.notes)


def _file(config: DataConfig, fs: Any, path: str, subset: bool) -> Source:
    if path.endswith(".parquet"):
        return scan_parquet(config, fs, path, {posixpath.basename(path): path}, subset)
    raise DataError(
        f"{config.path} is a file but neither Parquet nor an archive ({', '.join(endings())}): give a folder"
        " of images, a Parquet file, an archive or a glob."
    )


def _folder(config: DataConfig, fs: Any, root: str, subset: bool) -> Source:
    tree = walk(fs, root)
    parquet = {k: p for k, p in tree.files.items() if k.endswith(".parquet")}
    images = {k: p for k, p in tree.files.items() if k.lower().endswith(SUFFIXES)}
    in_classes = {k: p for k, p in images.items() if "/" in k}
    archives = [p for k, p in tree.files.items() if "/" not in k and is_archive(k)]
    if archives and not images and not parquet and not isinstance(fs, ArchiveFiles):
        return _archives(config, fs, archives, subset)
    notes = _notes(config, tree.files, tree.unnamed, tree.lost)
    if parquet and not in_classes:
        sets = {k: p for k, p in parquet.items() if holds_images(fs, p, broken=False)} if images else parquet
        if sets:
            if images:
                notes.append(
                    f"{config.path} holds Parquet files of images, so {len(images):,} image files beside them"
                    f" are left out, such as {some(sorted(images), 3)}: give one of both a folder of its own."
                )
            return _noted(_parquet_sets(config, fs, root, sets, subset), notes)
    if parquet:
        notes.append(
            f"{config.path} is read as a folder of images; {some(sorted(parquet), 3)} beside them"
            f" {'is' if len(parquet) == 1 else 'are'} left out."
        )
    if found := _splits(tree.folders, images):
        return _split(config, fs, root, subset, images, found, notes)
    if not tree.folders or config.labels != "auto":
        return _noted(_unlabelled(config, fs, root, images, tree.files), notes)
    if not in_classes:
        raise _no_images(config, tree.files, " in its sub-folders")
    filled = {k.split("/", 1)[0] for k in in_classes}
    empty = sorted(set(tree.folders) - filled)
    if empty:
        others = left_out([k for k in tree.files if k.startswith(f"{empty[0]}/")])
        raise DataError(
            f"The class folder {posixpath.join(config.path, empty[0])} holds no images"
            f"{f' ({others})' if others else ''}: fill or remove it."
        )
    if loose := len(images) - len(in_classes):
        notes.append(
            f"{config.path} has class folders, so {loose:,} image{'s' * (loose != 1)} beside them"
            f" {'is' if loose == 1 else 'are'} left out: put them into folders, or set data.labels to none to"
            " take all images as unlabelled."
        )
    listed = read_class_list(config.classes) if config.classes else None
    names, label = bind_names(tree.folders, listed, config.path, subset)
    items = tuple(Item(k, label[k.split("/", 1)[0]]) for k in sorted(in_classes))
    reader = FileReader(fs, root, in_classes)
    return Source(_name(root), names, items, reader, config.fingerprint, notes=tuple(notes))


def _parquet_sets(config: DataConfig, fs: Any, root: str, files: dict[str, str], subset: bool) -> Source:
    """The image sets among ``files``; the others, such as tables of predictions, are named."""
    try:
        return scan_parquet(config, fs, root, files, subset)
    except DataError:
        sets = {k: p for k, p in files.items() if holds_images(fs, p, broken=True)}
        if not 0 < len(sets) < len(files):
            raise
    others = sorted(set(files) - set(sets))
    note = f"{some(others, 3)} in {config.path} hold no column of images and are left out."
    return _noted(scan_parquet(config, fs, root, sets, subset), [note])


def _noted(source: Source, notes: Sequence[str]) -> Source:
    return replace(source, notes=(*source.notes, *notes)) if notes else source


def _notes(
    config: DataConfig, files: Collection[str], unnamed: Sequence[str], lost: Sequence[str]
) -> list[str]:
    """What is left out of a place because of its names, or because it is no file."""
    notes = []
    if others := left_out(files):
        notes.append(f"{config.path}: {others} (read are {', '.join(SUFFIXES)}).")
    if unnamed:
        notes.append(
            f"{config.path}: {len(unnamed):,} name{'s' * (len(unnamed) != 1)} not in UTF-8 and left out,"
            f" such as {', '.join(unnamed[:3])}: rename them."
        )
    if lost:
        notes.append(
            f"{config.path}: {len(lost):,} link{'s' * (len(lost) != 1)} that lead{'s' * (len(lost) == 1)}"
            f" nowhere, or pipes or devices, {'is' if len(lost) == 1 else 'are'} left out, such as"
            f" {some(lost, 3)}: get the files again."
        )
    return notes


SPLITS = {
    *("train", "training", "trainval", "val", "valid", "validation", "dev"),
    *("test", "testing", "eval", "evaluation"),
}
"""Folders that are called so and hold folders of images are the splits of a data set, not classes."""


def _splits(folders: Sequence[str], images: Collection[str]) -> list[str]:
    """The folders of a data set that has its splits above its classes; none for other sets."""
    if not folders or not all(f.casefold() in SPLITS for f in folders):
        return []
    return list(folders) if any(k.count("/") > 1 for k in images) else []


def _split(
    config: DataConfig,
    fs: Any,
    root: str,
    subset: bool,
    images: dict[str, str],
    found: Sequence[str],
    notes: list[str],
) -> Source:
    """The split of ``found`` that ``config`` chooses; without labels, 'all' are all of them. Raises DataError
    where none is chosen."""
    chosen = next((f for f in found if f.casefold() == config.split.casefold()), None)
    if chosen is not None:
        others = [f for f in found if f != chosen]
        read = f"{config.path} has the splits {', '.join(found)}: {chosen} is read."
        within = replace(config, path=posixpath.join(config.path, chosen))
        source = _folder(within, fs, posixpath.join(root, chosen), subset)
        return _noted(replace(source, name=_name(root)), [read] if others else [])
    if config.split == "all" and config.labels != "auto":
        return _noted(_unlabelled(config, fs, root, images, images), notes)
    folders = sorted({k.split("/")[1] for k in images if k.count("/") > 1})
    has = "" if config.split == "all" else f" and no split {config.split!r}"
    raise DataError(
        f"{config.path} holds the split{'s' * (len(found) > 1)} {', '.join(found)}{has} above its class"
        f" folders ({some(folders, 3)}): choose one for each data set with its option split, such as"
        f" --source.split {found[0]} and --target.split {found[-1]} (--target.data.split in SDA), or give"
        f" {posixpath.join(config.path, found[0])}."
    )


def _glob(config: DataConfig, fs: Any, pattern: str, subset: bool) -> Source:
    fixed = []
    for part in pattern.split("/"):
        if any(c in part for c in "*?["):
            break
        fixed.append(part)
    root = "/".join(fixed) or "/"
    files: dict[str, str] = {}
    unnamed, lost = [], []
    for path, info in fs.glob(pattern, detail=True).items():
        key = posixpath.relpath(path, root)
        if any(part.startswith(".") for part in key.split("/")):
            continue
        if not is_utf8(key):
            unnamed.append(readable(key))
            continue
        plain = info["type"] in ("file", "directory") and not info.get("islink")
        if is_local(fs) and not plain and no_file(path):
            lost.append(key)
            continue
        if not (info["type"] == "file" or is_file(fs, path)):
            continue
        if is_local(fs) and key.lower().endswith((*SUFFIXES, ".parquet")):
            stay_inside(path, os.path.realpath(root))
        files[key] = path
    images = {k: p for k, p in files.items() if k.lower().endswith(SUFFIXES)}
    parquet = {k: p for k, p in files.items() if k.endswith(".parquet")}
    archives = [p for p in files.values() if is_archive(p)]
    if archives and not images and not parquet:
        return _archives(config, fs, archives, subset)
    notes = _notes(config, files, unnamed, lost)
    if parquet and not images:
        return _noted(_parquet_sets(config, fs, root, parquet, subset), notes)
    return _noted(_unlabelled(config, fs, root, images, files), notes)


def braces(text: str) -> list[str]:
    """``shard-{00..12}.tar`` or ``{train,val}.tar`` -> its names; a text without such braces is its only
    one."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
    if match is None:
        return [text]
    first, last, listed = match[1], match[2], match[3]
    numbers = range(int(first), int(last) + 1) if listed is None else ()
    if len(numbers) > MOST_PARTS:
        raise DataError(f"{text} stands for {len(numbers):,} archives: give at most {MOST_PARTS:,}.")
    parts = [f"{n:0{len(first)}d}" for n in numbers] if listed is None else listed.split(",")
    texts = [f"{text[: match.start()]}{part}{text[match.end() :]}" for part in parts]
    return list(dict.fromkeys(full for each in texts for full in braces(each)))


def _no_images(config: DataConfig, files: Collection[str], where: str = "") -> DataError:
    others = left_out(files)
    return DataError(
        f"{config.path} holds no images{where} ({', '.join(SUFFIXES)}){f'; {others}' if others else ''}."
    )


def _unlabelled(
    config: DataConfig, fs: Any, root: str, images: dict[str, str], files: Collection[str]
) -> Source:
    if not images:
        raise _no_images(config, files)
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

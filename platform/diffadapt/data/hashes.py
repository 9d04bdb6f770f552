"""SHA-256 of many files, and what else is to be known of their bytes, remembered per user so that an
unchanged file is read once.

The memory is a JSON file per data root under ``hashes`` of the cache folder (core/local_cache.py),
keyed by path, size and modification time. It only saves time: without it, or with a damaged one or one that
another user wrote, the hashes are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffadapt.core.files import read_own, write_whole
from diffadapt.core.foreign import parse
from diffadapt.core.local_cache import cache_home

FRESH_NS = 2_000_000_000
"""A file changed less than this long ago is not remembered: a second change could leave size and time as they
are."""

LISTED = 8
"""So many files of one folder are asked for by a listing of it."""


def hash_order(keys: list[str]) -> list[str]:
    """``keys`` in the order of the SHA-256 of their text: fixed, unrelated to names, stable under moves of
    the folder."""
    return sorted(keys, key=lambda k: (hashlib.sha256(k.encode()).digest(), k))


def cache_folder() -> Path:
    """Where the hashes of the current user are remembered."""
    return cache_home() / "hashes"


def hash_files(
    fs: Any, root: str, paths: Iterable[str], known: MutableMapping[str, str] | None = None
) -> dict[str, str]:
    """The SHA-256 of each of ``paths`` on the fsspec file system ``fs``; ``root`` names the memory that they
    share. ``known``: those of files that were read this moment for something else, which are taken out."""
    held = {} if known is None else known
    return remembered(fs, root, paths, lambda path: held.pop(path, None) or _hash(fs, path))


def remembered(
    fs: Any, root: str, paths: Iterable[str], make: Callable[[str], Any], kind: str = ""
) -> dict[str, Any]:
    """``make(path)``, a JSON value, for each of ``paths``; what was made of an unchanged file is not made
    again. Memories of one ``root`` are told apart by ``kind``."""
    place = f"{_protocol(fs)}:{root}" + (f":{kind}" if kind else "")
    memory_file = cache_folder() / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
    known = _read(memory_file)
    wanted = list(dict.fromkeys(paths))
    stamps = _stamps(fs, wanted)
    new = []
    result: dict[str, Any] = {}
    for path in wanted:
        entry, stamp = known.get(path), stamps[path]
        if stamp is not None and isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
            result[path] = entry[2]
        else:
            new.append(path)
    learned = False
    for path, value in zip(new, _each(fs, make, new), strict=True):
        result[path], stamp = value, stamps[path]
        if stamp is not None and not (isinstance(stamp[1], int) and time.time_ns() - stamp[1] < FRESH_NS):
            known[path] = [*stamp, value]
            learned = True
    if learned:
        _write(memory_file, known)
    return {path: result[path] for path in wanted}


def _stamps(fs: Any, paths: list[str]) -> dict[str, list[Any] | None]:
    """:func:`file_stamp` of each. Of an object store a folder with several of them is listed, a request for a
    thousand files, and requests overlap."""
    told: dict[str, list[Any] | None] = {}
    if getattr(fs, "async_impl", False):
        folders: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            folders[path.rpartition("/")[0]].append(path)
        many = [folder for folder, inside in folders.items() if folder and len(inside) >= LISTED]
        for found in _each(fs, lambda folder: fs.ls(folder, detail=True), many):
            told |= {info["name"]: _stamp(info) for info in found if info.get("type") == "file"}
    rest = [path for path in paths if path not in told]
    told |= zip(rest, _each(fs, lambda path: file_stamp(fs, path), rest), strict=True)
    return {path: told[path] for path in paths}


def _each(fs: Any, ask: Callable[[str], Any], names: list[str]) -> Iterable[Any]:
    """``ask`` of each; requests to a remote place overlap."""
    if not getattr(fs, "async_impl", False) or len(names) < 2:
        yield from map(ask, names)
        return
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(ask, names)


def file_stamp(fs: Any, path: str) -> list[Any] | None:
    """[size, modification time in ns or the store's version tag] of a file; None where the store tells
    neither."""
    if _protocol(fs) == "file":
        status = os.stat(path)
        return [status.st_size, status.st_mtime_ns]
    return _stamp(fs.info(path))


def _stamp(info: Mapping[str, Any]) -> list[Any] | None:
    version = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("updated")
    return None if version is None else [info["size"], str(version)]


def _protocol(fs: Any) -> str:
    return fs.protocol[0] if isinstance(fs.protocol, (tuple, list)) else fs.protocol


def _hash(fs: Any, path: str) -> str:
    sha = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse(read_own(path))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(path: Path, values: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps(values).encode())

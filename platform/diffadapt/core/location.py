"""Paths and URLs that users give, as fsspec opens them."""

from __future__ import annotations

import os
import stat
from typing import Any

import fsspec

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.redact import redact


def locate(place: str, error: type[DiffadaptError], **options: Any) -> tuple[Any, str]:
    """(fsspec file system, path on it) of ``place``; ``options`` are the file system's. Raises ``error`` for
    a chain, and what fsspec raises (OSError, ValueError, ImportError) for what it cannot open."""
    return fsspec.core.url_to_fs(_plain(place, error), **options)


def open_place(place: str, mode: str, error: type[DiffadaptError]) -> Any:
    """A context manager that opens the file ``place`` in ``mode``; raises as :func:`locate` does."""
    return fsspec.open(_plain(place, error), mode)


def there(fs: Any, path: str) -> str | None:
    """'file' or 'directory', None where nothing is at ``path``. Raises what the file system or its library
    raises where that cannot be known: fsspec's own ``isfile``, ``isdir`` and ``exists`` say no then."""
    try:
        if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
            return "directory" if stat.S_ISDIR(os.stat(path).st_mode) else "file"
        return "directory" if fs.info(path)["type"] == "directory" else "file"
    except (FileNotFoundError, NotADirectoryError):
        return None


def _plain(place: str, error: type[DiffadaptError]) -> str:
    if "::" in place:
        raise error(
            f"{redact(place)!r} holds '::', by which file systems are chained, so that something else would"
            " be read or written than it says: give one plain path or URL without '::'."
        )
    return place

"""Paths and URLs that users give, as fsspec opens them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from diffadapt.core.credentials import refused
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.redact import redact, told

REMOTE_LIBRARIES = (
    "botocore", "aiobotocore", "s3fs", "gcsfs", "google", "aiohttp", "adlfs", "azure", "fsspec",
)  # fmt: skip
"""Libraries whose exceptions mean that the location could not be reached or refused; they do not all derive
from OSError."""


def reads_fail(error: BaseException) -> bool:
    """Whether ``error`` is a system's or a remote library's, not the program's."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in REMOTE_LIBRARIES


def locate(place: str, error: type[DiffadaptError], **options: Any) -> tuple[Any, str]:
    """(fsspec file system, path on it) of ``place``; ``options`` are the file system's. Raises ``error`` for
    a chain, and what fsspec raises (OSError, ValueError, ImportError) for what it cannot open."""
    return fsspec.core.url_to_fs(_plain(place, error), **options)


@contextmanager
def open_place(place: str, mode: str, error: type[DiffadaptError]) -> Iterator[Any]:
    """The file ``place``, opened in ``mode``; raises as :func:`locate` does, and OSError where its place
    fails, whatever its library raises."""
    where = redact(place)
    try:
        with fsspec.open(_plain(place, error), mode) as stream:
            yield stream
    except Exception as found:
        if isinstance(found, OSError) or not reads_fail(found):
            raise
        raise OSError(refused(found, f"the file {where}") or told(found, where)) from None


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

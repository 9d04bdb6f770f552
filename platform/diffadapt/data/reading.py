"""What a failed read of an image file means: a fault of that file, or of the place where it lies."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from diffadapt.core import credentials
from diffadapt.core.causes import reason
from diffadapt.core.errors import DataError, DiffadaptError, ItemError
from diffadapt.core.location import reads_fail, there
from diffadapt.core.redact import redact, told
from diffadapt.core.store import is_local

_OF_THE_FILE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Failures of the system and of remote libraries while the set ``name`` is read, as a DataError."""
    try:
        yield
    except Exception as error:
        if not reads_fail(error):
            raise
        raise DataError(
            credentials.refused(error, f"the data {name}")
            or f"A file of {name} cannot be read ({_why(error, name)}): check the disk, the connection"
            " and the rights, then run the same command."
        ) from None


def kind_of(fs: Any, path: str) -> str | None:
    """'file' or 'directory', None where nothing is at ``path`` of ``fs``; DataError where that cannot be
    known, which is no reason to do without it."""
    with reading(redact(path if is_local(fs) else fs.unstrip_protocol(path))):
        return there(fs, path)


def is_folder(fs: Any, path: str) -> bool:
    """Whether a folder is at ``path`` of ``fs``. Raises as :func:`kind_of`."""
    return kind_of(fs, path) == "directory"


def is_file(fs: Any, path: str) -> bool:
    """Whether a file is at ``path`` of ``fs``. Raises as :func:`kind_of`."""
    return kind_of(fs, path) == "file"


def broken_parquet(error: Exception) -> bool:
    """Whether ``error`` is Arrow's for a file that is no whole Parquet: some are an OSError, without a
    number."""
    return isinstance(error, pa.ArrowException) or type(error) is OSError and error.errno is None


def failed_read(error: Exception, key: str, fs: Any, path: str) -> DiffadaptError:
    """What to raise when the image ``key``, which lies at or below ``path`` on ``fs``, cannot be read.

    An ItemError, so that the image is set apart for good, only where the file itself is at fault: it is gone,
    may not be read, or is broken. Anything else (expired credentials, a server that does not answer, a disk
    that fails) is a DataError: a later try reads the image, so it must not be left out.
    """
    where = redact(path if is_local(fs) else fs.unstrip_protocol(path))
    if sentence := credentials.refused(error, f"the data {where}"):
        return DataError(sentence)
    number = error.errno if isinstance(error, OSError) else None
    if number in _OF_THE_FILE or isinstance(error, FileNotFoundError | PermissionError):
        return ItemError(f"{key} cannot be read ({reason(error)}).")
    return DataError(
        f"{key} cannot be read from {where} now ({_why(error, where)}), which is not the image's fault:"
        " run the same command again, and remove the image if it stays so; finished shards are kept."
    )


def _why(error: Exception, where: str) -> str:
    return reason(error) if isinstance(error, OSError) and error.errno else told(error, where)

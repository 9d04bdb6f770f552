"""Local files that appear whole or not at all, and what a killed writer leaves of them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffadapt.core.processes import has_ended, owner

_TEMPORARY = re.compile(r"\.tmp-(?:([0-9a-f]{12}-\d+-\d+)|\d+)-[0-9a-f]{8}$")
_SCRATCH = re.compile(r"^diffadapt-(?:fit|member|tb|tune|job)-(?:([0-9a-f]{12}-\d+-\d+)-)?[^.-]+$")
LEFTOVER_SECONDS = 3600.0
"""Age from which an unfinished file counts as left behind where its writer cannot be asked for."""
SCRATCH_SECONDS = 7 * 24 * 3600.0
"""The same of a scratch folder: a training may take days."""


def temporary(target: str) -> str:
    """A name beside ``target`` for its unfinished content; it says which process writes it."""
    return f"{target}.tmp-{owner()}-{secrets.token_hex(4)}"


def is_temporary(name: str) -> bool:
    """Whether ``name`` (or path) is of unfinished content, as :func:`temporary` and earlier versions name
    it."""
    return _TEMPORARY.search(name) is not None


def is_leftover(name: str, modified: float) -> bool:
    """Whether the writer of the unfinished file ``name`` has ended; where that cannot be known, whether it is
    older than LEFTOVER_SECONDS. ``modified``: seconds since 1970."""
    match = _TEMPORARY.search(name)
    if match is None:
        return False
    return has_ended(match[1] or "") or modified < time.time() - LEFTOVER_SECONDS


@contextmanager
def whole(target: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a file to fill; it gets the name ``target`` when the context ends without an error
    (OSError where that fails). What was written is on the disk before the name is: a power cut cannot
    tear it."""
    target = os.fspath(target)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    name = temporary(target)
    try:
        yield name
        with open(name, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(name, target)
    except BaseException:  # an interrupt too leaves nothing behind
        with suppress(OSError):
            os.unlink(name)
        raise


def write_whole(target: str | os.PathLike[str], data: bytes) -> None:
    """Write a local file whole or not at all; OSError where it cannot be written."""
    with whole(target) as name, open(name, "wb") as handle:
        handle.write(data)


def read_own(path: str | os.PathLike[str]) -> bytes:
    """The content of a local file that this user alone can have written. OSError for any other, which is not
    to be believed: of another user, open to all for writing, a link, or not there."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        own = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
        if not own or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, "another user can have written it", os.fspath(path))
        return file.read()


def create_whole(target: str | os.PathLike[str], data: bytes) -> bool:
    """The same unless ``target`` is there already; whether it was written. One of several succeeds."""
    target = os.fspath(target)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    name = temporary(target)
    try:
        with open(name, "wb") as handle:
            handle.write(data)
        os.link(name, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _create_exclusively(target, data)  # a file system without hard links
    finally:
        with suppress(OSError):
            os.unlink(name)


def _create_exclusively(target: str, data: bytes) -> bool:
    try:
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(handle, "wb") as file:
        file.write(data)
    return True


def clear_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the unfinished files directly in a local folder whose writers have ended; returns their
    paths."""
    gone = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process may clear the same
                if is_leftover(entry.name, entry.stat(follow_symlinks=False).st_mtime):
                    os.unlink(entry.path)
                    gone.append(entry.path)
    return gone


@contextmanager
def scratch(what: str) -> Iterator[str]:
    """A new local folder that only this user may read, under the temporary folder; it goes with the
    context, or, where the process is killed, with the next :func:`clear_scratch`."""
    folder = tempfile.mkdtemp(prefix=f"diffadapt-{what}-{owner()}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(dry_run: bool = False) -> list[tuple[str, int]]:
    """Remove this user's scratch folders whose processes have ended; returns (path, bytes) of what went, or
    would go."""
    gone = []
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            match = _SCRATCH.match(entry.name)
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if match is None or status.st_uid != os.getuid() or not entry.is_dir(follow_symlinks=False):
                    continue
                if has_ended(match[1] or "") or status.st_mtime < time.time() - SCRATCH_SECONDS:
                    gone.append((entry.path, folder_bytes(entry.path)))
                    if not dry_run:
                        shutil.rmtree(entry.path, ignore_errors=True)
    return gone


def folder_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of all files below a folder; links are not followed."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(Path(base) / name).st_size
    return total


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The hexadecimal SHA-256 of a local file. OSError when it cannot be read."""
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            total.update(block)
    return total.hexdigest()

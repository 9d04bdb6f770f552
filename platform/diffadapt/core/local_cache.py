"""Copies on this machine's disk: fitted folders of a remote store, and the tables that trainings map.

One folder that only its user can read and write, ``<cache>/copies``, with for each copy ``<name>/`` (its
files), ``<name>.json`` (the SHA-256 of each file, and JSON notes) and ``<name>.lock``. What is there is
checked before it is used, so that nothing planted, torn or half deleted is; what is damaged is made again.
``<cache>``: DIFFADAPT_CACHE, else the platform's cache folder for diffadapt (on Linux ``$XDG_CACHE_HOME`` or
``~/.cache``, then ``diffadapt``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from diffadapt.core import checked
from diffadapt.core.errors import StoreError
from diffadapt.core.files import file_sha256, folder_bytes, is_leftover, temporary, write_whole
from diffadapt.core.units import format_seconds

VARIABLE = "DIFFADAPT_CACHE"
LIMIT_VARIABLE = "DIFFADAPT_CACHE_GB"
SHARE_OF_DISK = 0.2
"""What the copies may take of their disk where DIFFADAPT_CACHE_GB does not say."""
_NAME = re.compile(r"^[a-z]+-[0-9a-f]{12,64}$")
log = logging.getLogger(__name__)
_held: dict[str, int] = {}
"""Locks of the copies that this process uses, held until it ends: they are not tidied away."""
_checked: dict[str, tuple[Any, ...]] = {}
"""What the files of a copy looked like when their content was last checked in this process."""


def cache_home() -> Path:
    """The user's cache folder of diffadapt; it need not exist."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_cache_dir("diffadapt"))


def private_folder(folder: Path) -> Path:
    """Make ``folder`` for this user alone (0700), or check that it is so.

    StoreError when it is a link, belongs to another user, or cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            what = "a link" if stat.S_ISLNK(status.st_mode) else "not a folder of this user's own"
            raise StoreError(
                f"The cache folder {folder} is {what}, so that somebody else could change what is read from"
                f" it: remove it, or set {VARIABLE} to a folder of your own."
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise StoreError(
            f"The cache folder {folder} cannot be made ({error.strerror}): set {VARIABLE} to a folder that"
            " you may write."
        ) from None
    return folder


@dataclass(frozen=True)
class Copy:
    """One copy: its folder, the notes of who made it, its size in bytes, and when it was last used (seconds
    since 1970)."""

    name: str
    folder: Path
    notes: Mapping[str, Any]
    bytes: int
    used: float

    def when(self) -> str:
        """How long ago it was used, for people: '3 h ago'."""
        return f"{format_seconds(time.time() - self.used)} ago"


@dataclass
class Making:
    """A copy that is being made: ``folder`` is to be filled, unless ``existing`` was made by another process
    meanwhile."""

    folder: Path
    existing: Copy | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """JSON values that are kept with the copy."""
    keep: bool = True
    """False: it is not to be kept after all."""


class LocalCache:
    """The copies of this user on this machine. ``limit``: bytes that they may take; what was not used for
    longest goes first, what a living process uses stays."""

    def __init__(self, home: Path | None = None, limit: int | None = None):
        self.folder = (home or cache_home()) / "copies"
        self._limit = limit

    def find(self, name: str, checksums: Mapping[str, str] | None = None) -> Copy | None:
        """The copy ``name`` if it is there and whole; one that is not is dropped, with a warning.

        ``checksums``: the SHA-256 that each of its files must have (name -> hexadecimal digits).
        """
        self._open()
        if not self._index(name).exists():
            return None
        self._hold(name)  # waits for who makes it
        return self._sound(name, checksums)

    @contextmanager
    def making(self, name: str, checksums: Mapping[str, str] | None = None) -> Iterator[Making]:
        """Make the copy ``name``, one process of this machine at a time; the others wait and then find it as
        ``existing``. It is there when the context ends without an error, and read with :meth:`find`.

        StoreError when the disk is full or cannot be written; what was begun then goes.
        """
        assert _NAME.match(name), name
        self._open()
        with self._lock(name):
            if found := self._sound(name, checksums):
                yield Making(found.folder, found)
                return
            self._tidy(keep=name)
            work = Path(temporary(str(self.folder / name)))
            try:
                work.mkdir(mode=0o700)
                making = Making(work)
                yield making
                if making.keep:
                    self._commit(name, work, making.notes)
            except OSError as error:
                raise self._explained(error) from None
            finally:
                shutil.rmtree(work, ignore_errors=True)
            self._tidy(keep=name)

    def entries(self) -> list[Copy]:
        """All copies, the longest unused first. Their content is not checked."""
        result = []
        for index in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            with suppress(OSError, ValueError, KeyError, TypeError):
                value = json.loads(index.read_text(encoding="utf-8"))
                folder = self.folder / index.stem
                used = index.stat().st_mtime
                result.append(Copy(index.stem, folder, value["notes"], folder_bytes(folder), used))
        return sorted(result, key=lambda c: c.used)

    def collect(self, older_than: float, dry_run: bool = False) -> list[tuple[str, int]]:
        """Remove copies that nobody used for ``older_than`` seconds, and what killed processes left; returns
        (path, bytes) of what went, or would go."""
        if not self.folder.is_dir():
            return []
        self._open()
        known = self.entries()
        stale = [c for c in known if c.used <= time.time() - older_than]
        gone = [(str(c.folder), c.bytes) for c in stale if self._remove(c.name, dry_run)]
        names = {c.name for c in known}
        for path in sorted(self.folder.iterdir()):
            with suppress(OSError):
                orphan = path.is_dir() and path.name not in names and _NAME.match(path.name)
                if is_leftover(path.name, path.lstat().st_mtime) or (orphan and not path.is_symlink()):
                    size = folder_bytes(path) if path.is_dir() else path.lstat().st_size
                    if not orphan or self._remove(path.name, dry_run):
                        gone.append((str(path), size))
                    if not orphan and not dry_run:
                        _unlink(path)
        return gone

    def limit(self) -> int:
        """Bytes that the copies may take together. StoreError when DIFFADAPT_CACHE_GB is no number."""
        if self._limit is not None:
            return self._limit
        named = os.environ.get(LIMIT_VARIABLE)
        try:
            return int(float(named) * 1e9) if named else int(SHARE_OF_DISK * _disk(self.folder))
        except (ValueError, OverflowError):
            raise StoreError(
                f"{LIMIT_VARIABLE} is {named!r}, which is no number: give gigabytes, such as 50."
            ) from None

    def _open(self) -> None:
        home = self.folder.parent
        if not home.exists() and VARIABLE not in os.environ and not _writable(home):
            self.folder = Path(tempfile.gettempdir()) / f"diffadapt-{os.geteuid()}" / "copies"
            private_folder(self.folder.parent)
        private_folder(self.folder)

    def _index(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _sound(self, name: str, checksums: Mapping[str, str] | None) -> Copy | None:
        if not self._index(name).exists() and not (self.folder / name).exists():
            return None
        try:
            return self._whole(name, checksums)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("The copy %s in %s is damaged (%s); it is made again.", name, self.folder, error)
            self._drop(name)
            return None

    def _whole(self, name: str, checksums: Mapping[str, str] | None) -> Copy:
        """Raises what is wrong with it."""
        folder, index = self.folder / name, self._index(name)
        value = checked.from_json(index.read_bytes())
        files: dict[str, str] = value["files"]
        if checksums is not None and any(files.get(file) != sha for file, sha in checksums.items()):
            raise ValueError("it is of other content")
        looks = [_looks(folder), _looks(index)]
        for file in files:
            parts = Path(file).parts
            looks += [_looks(folder.joinpath(*parts[: i + 1])) for i in range(len(parts))]
        if _checked.get(str(folder)) != tuple(looks[2:]):
            for file, sha in files.items():
                if file_sha256(folder / file) != sha:
                    raise ValueError(f"{file} has changed")
            _checked[str(folder)] = tuple(looks[2:])
        os.utime(index)
        return Copy(name, folder, value["notes"], folder_bytes(folder), time.time())

    def _commit(self, name: str, work: Path, notes: Mapping[str, Any]) -> None:
        files = {}
        for path in sorted(work.rglob("*")):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
                files[path.relative_to(work).as_posix()] = file_sha256(path)
        self._drop(name)
        os.replace(work, self.folder / name)
        index = checked.to_json({"files": files, "notes": dict(notes)}, indent=None)
        write_whole(self._index(name), index)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Alone on this machine with ``name``; afterwards it is held as used. File systems without locks: no
        lock."""
        _release(str(self.folder / name))
        handle = _locked(self.folder / f"{name}.lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)
            self._hold(name)

    def _hold(self, name: str) -> None:
        path = str(self.folder / name)
        if path not in _held and (handle := _locked(self.folder / f"{name}.lock", fcntl.LOCK_SH)) is not None:
            _held[path] = handle

    def _drop(self, name: str) -> None:
        _checked.pop(str(self.folder / name), None)
        self._index(name).unlink(missing_ok=True)
        _unlink(self.folder / name)

    def _remove(self, name: str, dry_run: bool = False) -> bool:
        """Drop a copy unless a living process uses it."""
        path = self.folder / f"{name}.lock"
        if str(self.folder / name) in _held or (handle := _locked(path, fcntl.LOCK_EX, wait=False)) is None:
            return False
        try:
            if not dry_run:
                self._drop(name)
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True

    def _tidy(self, keep: str) -> None:
        """Drop what was not used for longest until the limit holds, and what killed processes left."""
        for path in self.folder.iterdir():
            with suppress(OSError):
                if is_leftover(path.name, path.lstat().st_mtime):
                    _unlink(path)
        copies = self.entries()
        total, limit = sum(c.bytes for c in copies), self.limit()
        for copy in copies:
            if total <= limit:
                return
            if copy.name != keep and self._remove(copy.name):
                total -= copy.bytes

    def _explained(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"The disk of the cache folder {self.folder} is full: free space (`diffadapt cache gc`), or"
                f" set {VARIABLE} to a place with more room, then run the same command."
            )
        return StoreError(
            f"The cache folder {self.folder} cannot be written ({error.strerror or error}): mend that or set"
            f" {VARIABLE}, then run the same command."
        )


def _looks(path: Path) -> tuple[int, ...]:
    """What changes when a file does. OSError when it is absent, ValueError when it is a link or another
    user's."""
    status = path.lstat()
    if status.st_uid != os.geteuid() or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError(f"{path.name} is a link, or another user's")
    if stat.S_ISDIR(status.st_mode):
        return (status.st_ino,)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _locked(path: Path, kind: int, wait: bool = True) -> int | None:
    """An open file with the lock; None where it cannot be had: taken (unless ``wait``), or no locks there."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except FileNotFoundError:  # it was tidied away between the two lines
            pass
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return None
            raise
        os.close(handle)


def _release(path: str) -> None:
    if (handle := _held.pop(path, None)) is not None:
        os.close(handle)


def _unlink(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _disk(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).total


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)

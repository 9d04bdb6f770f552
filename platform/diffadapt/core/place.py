"""Places that a user names to be written (``--out``): whole or not at all, and one sentence when it cannot
be."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffadapt.core.causes import full_disk, mend, reason, shown
from diffadapt.core.errors import DiffadaptError, StoreError
from diffadapt.core.files import is_leftover, is_temporary, temporary, write_whole
from diffadapt.core.location import REMOTE_LIBRARIES, locate, there
from diffadapt.core.redact import redact, told
from diffadapt.core.store import is_local


@contextmanager
def writing(out: str) -> Iterator[None]:
    """Failures of the system at ``out``, and of libraries that hide them, as a StoreError that names it."""
    try:
        yield
    except DiffadaptError:
        raise
    except Exception as error:
        what = f"--out {shown(redact(out))} cannot be written"
        if found := full_disk(error):
            raise StoreError(f"{what} (the disk {found[0]}): free space or give another place.") from None
        if isinstance(error, OSError) and _is_of(error, out):
            raise StoreError(
                f"{what} ({redact(reason(error))}): {mend(error, 'give another place')}."
            ) from None
        if type(error).__module__.split(".")[0] in REMOTE_LIBRARIES:
            raise StoreError(f"{what} ({told(error, redact(out))}): give another place.") from None
        raise


def _is_of(error: OSError, out: str) -> bool:
    """Whether ``error`` was met at ``out``, above or below it, and not at something that was read
    meanwhile."""
    if error.filename is None:
        return True
    name, place = os.path.abspath(os.fsdecode(error.filename)), os.path.abspath(out)
    unfinished = any(map(is_temporary, Path(name).parts))
    return unfinished or "://" in out or place.startswith(name) or name.startswith(place)


def located(out: str) -> tuple[Any, str]:
    """(file system, path) of ``out``, any fsspec location. StoreError for one that cannot be opened."""
    try:
        return locate(out, StoreError)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"--out {shown(redact(out))} cannot be opened ({error}): give another place."
        ) from None


def demand_empty(out: str) -> None:
    """StoreError when ``out`` is a file, or a folder that holds anything."""
    with writing(out):
        fs, path = located(out)
        found = there(fs, path)
        if found == "file" or found and fs.ls(path, detail=False):
            raise StoreError(f"{shown(redact(out))} exists and is not empty: give another --out.")


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[str]:
    """A folder to fill, which becomes ``out`` when the block ends well: where it failed, or was
    interrupted, nothing is at ``out`` that was not there before.

    What ``out`` holds already stays, but for what has the name of something new. On object stores, which
    cannot rename, the block fills ``out`` itself, and what it wrote is removed when it fails. Raises
    StoreError.
    """
    out = os.fspath(out)
    with writing(out):
        fs, path = located(out)
        if is_local(fs):
            with _scratch(Path(path)) as scratch:
                yield str(scratch)
            return
        before = set(fs.find(path))
        try:
            yield out
        except BaseException:
            with suppress(Exception):
                fs.invalidate_cache()
                for file in set(fs.find(path)) - before:
                    fs.rm_file(file)
            raise


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    there = target.is_dir()
    if not there and target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    beside = target if there else target.parent  # one that is there may be all that may be written
    made = [p for p in (beside, *beside.parents) if not p.exists()]
    start = f".{target.name[:40]}.incomplete"
    _clear(beside, start)
    scratch = Path(temporary(str(beside / start)))
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if not there:
            _demand_name(target)
        scratch.mkdir()
        yield scratch
        if there:
            _merge(scratch, target)
        else:
            os.replace(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):
            for folder in made:  # the innermost is first
                folder.rmdir()
        raise


def write_file(out: str, data: bytes) -> None:
    """``data`` as the file ``out`` (any fsspec location), whole or not at all. Raises StoreError."""
    with writing(out):
        fs, path = located(out)
        if is_local(fs):
            write_whole(path, data)
        else:
            fs.pipe_file(path, data)


def demand_writable(out: str) -> None:
    """StoreError, before hours of work, when the file ``out`` could not be written; its folder is made."""
    with writing(out):
        fs, path = located(out)
        if there(fs, path) == "directory":
            raise StoreError(f"{shown(redact(out))} is a folder: give --out the name of a file.")
        if folder := posixpath.dirname(path):
            fs.makedirs(folder, exist_ok=True)
        if is_local(fs):
            _demand_name(Path(path))
            with tempfile.TemporaryFile(dir=folder or "."):
                pass


def _demand_name(target: Path) -> None:
    """Raises the OSError of a name that no file can have."""
    with suppress(FileNotFoundError):
        os.stat(target)


def _clear(beside: Path, start: str) -> None:
    """Remove what a killed writer of the same output left."""
    with suppress(OSError), os.scandir(beside) as entries:
        for entry in entries:
            if entry.name.startswith(start) and is_leftover(entry.name, entry.stat().st_mtime):
                shutil.rmtree(entry.path, ignore_errors=True)


def _merge(scratch: Path, target: Path) -> None:
    for entry in sorted(scratch.iterdir()):
        place = target / entry.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(entry, place)
    scratch.rmdir()

"""The store: shards and fitted artefacts under readable, content-addressed names, on any fsspec location.

Layout: ``<root>/store.json``; ``<root>/<kind>/<label>-<family>/<key>-<digest>.parquet`` for shards with
``family.json`` beside them; ``<root>/<kind>/<label>-<digest>/`` with ``_SUCCESS`` for fitted artefacts. A
name appears only when its content is complete: local files are written beside and renamed, object stores put
whole objects. Unfinished files are never listed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import os
import posixpath
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from diffadapt.core import credentials
from diffadapt.core.artifact import Header, Rows, from_parquet, read_header, to_parquet
from diffadapt.core.causes import full_disk, reason
from diffadapt.core.errors import DamagedError, MissingError, StoreError
from diffadapt.core.files import (
    clear_leftovers,
    create_whole,
    file_sha256,
    is_leftover,
    is_temporary,
    write_whole,
)  # fmt: skip
from diffadapt.core.foreign import parse
from diffadapt.core.location import locate, reads_fail, there
from diffadapt.core.redact import redact, told

FORMAT = 1
_SAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


def safe_name(text: str) -> str:
    """``text`` as one path component: other characters become '-'; at most 100 characters."""
    return _SAFE.sub("-", text).strip("-.")[:100] or "x"


class Store:
    """Reads and writes under one root. Cheap to pickle: only the location travels, absolute when it is
    local."""

    def __init__(self, root: str):
        self.root = str(root).rstrip("/") or "/"
        try:
            self.fs, self.path = locate(
                self.root, StoreError, use_listings_cache=False
            )  # others write here too
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"The store {redact(self.root)!r} cannot be opened: {error}. Install the file system's"
                " package or mend the URL."
            ) from None
        self.local = is_local(self.fs)
        if self.local:
            self.root = self.path

    def __reduce__(self):
        return (Store, (self.root,))

    # -- paths
    # ---------------------------------------------------------------------------------------------------
    def join(self, *parts: str) -> str:
        return posixpath.join(self.path, *parts)

    def below(self, name: str) -> Store:
        """The folder ``name`` as a store of its own, of the same kind."""
        return Store(posixpath.join(self.root, name))

    def shard_path(self, kind: str, label: str, family: str, key: str, digest: str) -> str:
        return posixpath.join(
            kind, f"{safe_name(label)}-{family[:12]}", f"{safe_name(key)}-{digest[:12]}.parquet"
        )

    def fit_path(self, kind: str, label: str, digest: str) -> str:
        return posixpath.join(kind, f"{safe_name(label)}-{digest[:12]}")

    # -- bytes
    # ---------------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Create the root and its format marker; StoreError when it cannot be written or has another
        format."""
        self.clear_leftovers([""])
        if not self.check():
            self.write_bytes("store.json", json.dumps({"format": FORMAT}).encode())

    def check(self) -> bool:
        """Whether there is a store here; StoreError when it has another format. Writes nothing."""
        if not self.exists("store.json"):
            return False
        try:
            found = parse(self.read_bytes("store.json"))["format"]
        except (ValueError, KeyError, TypeError):
            found = "unknown"
        if found != FORMAT:
            raise StoreError(
                f"The store {redact(self.root)} has format {found} by its store.json, this version reads"
                f" format {FORMAT}: give another --root or install the version that wrote it; or, where that"
                " file is damaged and this version wrote it, delete it: it is written again, and what lies"
                " here is served."
            )
        return True

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` whole or not at all."""
        target = self.join(name)
        with self._explained(name):
            if self.local:
                write_whole(target, data)
            else:
                self.fs.pipe_file(target, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write ``name`` whole unless it is there already; whether it was written. On a file system that
        cannot promise that one writer alone succeeds, the last of several within a second does."""
        target = self.join(name)
        with self._explained(name):
            if self.local:
                return create_whole(target, data)
            if there(self.fs, target):
                return False
            try:
                self.fs.pipe_file(target, data, mode="create")
                return True
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError, ValueError):
                self.fs.pipe_file(target, data)
                time.sleep(1.0)
                return self.fs.cat_file(target) == data

    def read_bytes(self, name: str) -> bytes:
        with self._explained(name, reading=True):
            return self.fs.cat_file(self.join(name))

    def sha256(self, name: str) -> str:
        """Of a file's content, in hexadecimal digits."""
        with self._explained(name, reading=True):
            if self.local:
                return file_sha256(self.join(name))
        return hashlib.sha256(self.read_bytes(name)).hexdigest()

    def exists(self, name: str) -> bool:
        with self._explained(name):
            return there(self.fs, self.join(name)) is not None

    def list(self, folder: str) -> set[str]:
        """Names of the files directly in ``folder`` (an empty set when it does not exist)."""
        with self._explained(folder):
            try:
                if self.local:
                    names = os.listdir(self.join(folder))
                else:
                    names = [p.rstrip("/") for p in self.fs.ls(self.join(folder), detail=False)]
                return {posixpath.basename(name) for name in names if not is_temporary(name)}
            except (FileNotFoundError, NotADirectoryError):
                return set()

    def files(self, folder: str) -> dict[str, dict[str, Any]]:
        """The finished files below ``folder``: name relative to it -> what the file system tells of it (size,
        time)."""
        with self._explained(folder):
            prefix = self.join(folder).rstrip("/") + "/"
            infos = self.fs.find(self.join(folder), detail=True)
            return {p.removeprefix(prefix): i for p, i in sorted(infos.items()) if not is_temporary(p)}

    def clear_leftovers(self, folders: Iterable[str], below: bool = False) -> list[str]:
        """Remove what killed writers left directly in ``folders``, or anywhere ``below`` them; returns their
        paths. Only local stores have such files."""
        if not self.local:
            return []
        places = (self.join(folder) for folder in folders)
        if below:
            places = (base for place in places for base, _, _ in os.walk(place))
        return [path for place in places for path in clear_leftovers(place)]

    def lists(self, folders: Iterable[str]) -> dict[str, set[str]]:
        """:meth:`list` of many folders; requests to a remote store overlap."""
        folders = list(folders)
        return dict(zip(folders, self.each(self.list, folders), strict=True))

    def existing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that exist; requests to a remote store overlap."""
        return [name for name, there in zip(names, self.each(self.exists, names), strict=True) if there]

    def each(self, ask: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
        """``ask`` of each of ``names``, in order; requests to a remote store overlap."""
        if self.local or len(names) < 2:
            return [ask(name) for name in names]
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(ask, names))

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        with self._explained(name):
            path = self.join(name)
            if self.local:
                _remove_local(path)
            elif there(self.fs, path):
                if not glob.has_magic(path):
                    self.fs.rm(path, recursive=True)
                else:  # a remote rm would read [x] as a glob, and remove what matches it
                    self.each(self.fs.rm_file, self.fs.find(path))

    # -- shards
    # --------------------------------------------------------------------------------------------------
    def commit(self, name: str, rows: Rows, provenance: Mapping[str, Any]) -> None:
        """Store a shard atomically; committing the same digest twice leaves the same bytes."""
        self.write_bytes(name, to_parquet(rows, provenance))

    def load(self, name: str) -> Rows:
        """The rows of a shard. StoreError when it is missing or damaged (a damaged file is named, so it can
        be removed)."""
        data = self.read_bytes(name)
        try:
            return from_parquet(data)
        except Exception as error:
            raise _damaged(f"{redact(self.root)}/{name}", error) from None

    def header(self, name: str) -> Header:
        """Row count, failures and warnings of a shard, from its footer."""
        with self._explained(name, reading=True), self.fs.open(self.join(name), "rb") as handle:
            with suppress(ValueError, KeyError, OSError, RecursionError):
                return read_header(handle)
        data = self.read_bytes(name)  # the shard is damaged, or its place failed: that is said here
        try:
            return read_header(io.BytesIO(data))
        except (ValueError, KeyError, OSError, RecursionError) as error:
            raise _damaged(f"{redact(self.root)}/{name}", error) from None

    def headers(self, names: Sequence[str]) -> list[Header]:
        """:meth:`header` of many shards; requests to a remote store overlap."""
        return self.each(self.header, names)

    # -- maintenance
    # ---------------------------------------------------------------------------------------------
    def entries(self) -> Iterable[dict[str, Any]]:
        """Families and fitted artefacts: kind, name, files, bytes and newest modification time."""
        kinds = [k for k in sorted(self.list("")) if k != "store.json" and not k.startswith(".")]
        for kind in kinds:
            for name in sorted(self.list(kind)):
                folder = posixpath.join(kind, name)
                infos = self.files(folder)
                if infos:
                    yield self._entry(kind, name, folder, infos)

    def _entry(self, kind: str, name: str, folder: str, infos: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "kind": kind,
            "name": name,
            "path": folder,
            "files": [self.join(folder, name) for name in infos],
            "bytes": sum(i.get("size") or 0 for i in infos.values()),
            "modified": max([modified(i) for i in infos.values()], default=0.0),
        }

    def collect_garbage(self, keep: set[str], *, older_than: float, dry_run: bool) -> list[tuple[str, int]]:
        """Delete stored files and checkpoints that are not in ``keep`` and are older than ``older_than``
        seconds.

        ``keep`` holds names of shards and of fitted artefacts' folders. Returns (name, bytes) of what went,
        or would go.
        """
        gone: list[tuple[str, int]] = []
        limit = time.time() - older_than
        prefix = self.path.rstrip("/") + "/"
        folders = [e["path"] for e in self.entries()] + [
            f".checkpoints/{n}" for n in sorted(self.list(".checkpoints"))
        ]
        for folder in folders:
            infos = self.fs.find(self.join(folder), detail=True)
            whole = folder in keep  # a fitted artefact is kept or dropped as one
            unreferred = {
                p: i
                for p, i in infos.items()
                if is_leftover(p, modified(i))
                or (not whole and p.removeprefix(prefix) not in keep and modified(i) <= limit)
            }
            if len(unreferred) < len(infos):
                unreferred = {p: i for p, i in unreferred.items() if posixpath.basename(p) != "family.json"}
            for path, info in unreferred.items():
                gone.append((path.removeprefix(prefix), info.get("size") or 0))
                if not dry_run:
                    self.fs.rm_file(path)
            if self.local and not dry_run and len(unreferred) == len(infos):
                shutil.rmtree(self.join(folder), ignore_errors=True)
        return gone

    @contextmanager
    def _explained(self, name: str, reading: bool = False) -> Iterator[None]:
        """Failures of the file system as StoreError."""
        try:
            yield
        except Exception as error:
            if reading and isinstance(error, FileNotFoundError):
                raise MissingError(
                    f"The store {redact(self.root)} has no {name}; run the recipe again to make it."
                ) from None
            if reads_fail(error):
                raise self._explain(error, name, reading) from None
            raise

    def _explain(self, error: BaseException, name: str, reading: bool = False) -> StoreError:
        where = redact(self.root)
        number = getattr(error, "errno", None)
        if full := full_disk(error):
            return StoreError(
                f"The disk of the store {where} {full[0]}: free space or give another --root, then run the"
                " same command; finished shards are kept."
            )
        if not self.local and (sentence := self._refused(error, f"the store {where}")):
            return StoreError(sentence)
        if number == errno.ENAMETOOLONG:
            return StoreError(f"The store {where} cannot be used ({reason(error)}): give a shorter --root.")
        if isinstance(error, PermissionError) or number in (errno.EACCES, errno.EROFS, errno.EPERM):
            why = reason(error) if number == errno.EROFS else "permission denied"
            return StoreError(
                f"The store {where} cannot be {'read' if reading else 'written'} ({why} for {name}): give a"
                f" --root that you may {'read' if reading else 'write'}."
            )
        if self.local and number == errno.ENOENT:
            return StoreError(
                f"The store {where} cannot be made ({name}: {os.strerror(errno.ENOENT)}): give another"
                " --root."
            )
        if number in (errno.ENOTDIR, errno.EEXIST):
            return StoreError(f"The store {where} is not a folder: give another --root.")
        return StoreError(
            f"The store {where} failed at {name}: {told(error, where)}. Run the same command"
            " again; finished shards are kept."
        )

    def _refused(self, error: BaseException, where: str) -> str | None:
        """The sentence for expired or wrong credentials. An answer to HEAD does not say, so another is
        asked."""
        if (said := credentials.refused(error, where)) or not credentials.unexplained(error):
            return said
        try:
            self.fs.ls(self.path, detail=False)
        except Exception as second:
            return credentials.refused(second, where)
        return None


def _remove_local(path: str) -> None:
    """A file, or a folder even while others write into it."""
    for left in range(3, -1, -1):
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
            return
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                raise


def _damaged(name: str, error: BaseException) -> StoreError:
    return DamagedError(
        f"The stored file {name} is damaged ({type(error).__name__}): delete it and run again to remake it."
    )


def is_local(fs: Any) -> bool:
    """Whether an fsspec file system is this machine's."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def modified(info: Mapping[str, Any]) -> float:
    """Seconds since 1970 of what a file system tells of a file; now where it does not say."""
    value: Any = info.get("mtime") or info.get("LastModified") or info.get("created")
    if not value:
        return time.time()  # unknown counts as new
    return value.timestamp() if hasattr(value, "timestamp") else float(value)

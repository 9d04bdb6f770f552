"""Where the bytes of images and scenes lie: in files, or in the rows of Parquet files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import stat
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.location import locate, reads_fail
from diffadapt.data.hashes import hash_files, remembered
from diffadapt.data.image import FORMATS
from diffadapt.data.looks import LOOKED_AT, LOOKS, Look, look, spread, total
from diffadapt.data.reading import broken_parquet, failed_read, is_file, kind_of, reading

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""File names that count as images; hidden files are ignored, others are left out and counted."""
BESIDE = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".md", ".rst", ".xml", ".html", ".htm", ".css",
    ".js", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".py", ".ipynb", ".sh", ".bat", ".db", ".lnk",
    ".url", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".npy", ".npz", ".mat", ".pkl", ".h5", ".pt", ".pth",
    ".safetensors", ".parquet", ".cls",
)  # fmt: skip
"""Files that ordinarily lie beside images and are none: nobody misses them."""
ROW_GROUPS_HELD = 2


@dataclass(frozen=True)
class FileReader:
    """One file an image; ``paths[key]`` is its path on ``fs``."""

    fs: Any
    root: str
    paths: dict[str, str]
    hashed: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Of files that were looked at: a fingerprint reads each file once for both."""

    def read(self, key: str) -> bytes:
        try:
            return self.fs.cat_file(self.paths[key])
        except Exception as error:
            if not reads_fail(error):
                raise
            raise failed_read(error, key, self.fs, self.root) from None

    def locality(self, key: str) -> str:
        return key

    def total_bytes(self, keys: Sequence[str]) -> int:
        return sum(self._size(k) for k in keys)

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        if not content:
            return [self._size(k) for k in keys]
        hashes = hash_files(self.fs, self.root, [self.paths[k] for k in keys], self.hashed)
        self.hashed.clear()
        return [hashes[self.paths[k]] for k in keys]

    def looked(self, keys: Sequence[str], content: bool) -> Look:
        """What there is to mind in ``keys``, or in some of them unless ``content``."""
        paths = [self.paths[k] for k in (keys if content else spread(keys, LOOKED_AT))]
        found = remembered(self.fs, self.root, paths, self._look_at, LOOKS)
        return total(found[path] for path in paths)

    def _look_at(self, path: str) -> Look | None:
        try:
            data = self.fs.cat_file(path)
            self.hashed[path] = hashlib.sha256(data).hexdigest()
            return look(data)
        except ItemError:
            return None
        except Exception as error:
            if not reads_fail(error):
                raise
            found = failed_read(error, path, self.fs, self.root)
            if isinstance(found, ItemError):  # set apart and named when it is read
                return None
            raise found from None

    def _size(self, key: str) -> int:
        return os.stat(self.paths[key]).st_size if is_local(self.fs) else self.fs.size(self.paths[key])


@dataclass
class ParquetReader:
    """Rows of Parquet files; ``places[key]`` is (file, row group, row in it). Holds the last row groups, so
    that reading in the order of :meth:`locality` decodes each once."""

    fs: Any
    root: str
    files: dict[str, str]
    places: dict[str, tuple[str, int, int]]
    columns: tuple[str, ...] = ("image",)
    """What is read of a row, where it is there."""
    held: OrderedDict = field(default_factory=OrderedDict, repr=False)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def read(self, key: str) -> bytes:
        return self.row(key)["image"]

    def row(self, key: str) -> dict[str, Any]:
        """The columns of one row, encoded images as bytes or None. Raises ItemError where the image is
        none."""
        file, group, offset = self.places[key]
        try:
            row = self._group(file, group).slice(offset, 1).to_pylist()[0]
        except Exception as error:
            if broken_parquet(error):
                raise ItemError(f"{key} cannot be read from {file} ({error}).") from None
            if not reads_fail(error):
                raise
            raise failed_read(error, key, self.fs, self.files[file]) from None
        row = {name: v.get("bytes") if isinstance(v, dict) else v for name, v in row.items()}
        if row["image"] is None:
            raise ItemError(f"{key} has no image bytes in {file}.")
        return row

    def locality(self, key: str) -> tuple[str, int, int]:
        return self.places[key]

    def total_bytes(self, keys: Sequence[str]) -> int:
        return sum(self.fs.size(self.files[f]) for f in self._used(keys))

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        used = self._used(keys)
        if not content:
            return [[f, self.fs.size(self.files[f])] for f in used]
        hashes = hash_files(self.fs, self.root, [self.files[f] for f in used])
        return [[f, hashes[self.files[f]]] for f in used]

    def looked(self, keys: Sequence[str], content: bool) -> Look:
        """What there is to mind in the files of ``keys``, or in two of their row groups unless
        ``content``."""
        paths, kind = [self.files[f] for f in self._used(keys)], ":".join((LOOKS, *self.columns))
        try:
            if content:
                return total(remembered(self.fs, self.root, paths, self._look_at, kind).values())
            groups = spread(sorted({self.places[k][:2] for k in keys}), 2)
            return total(self._look(self._group(*group)) for group in groups)
        except Exception as error:
            if broken_parquet(error):  # set apart and named when it is read
                return Look()
            raise

    def _look_at(self, path: str) -> Look:
        with self.fs.open(path, "rb") as stream:
            whole = pq.ParquetFile(stream)
            columns = [c for c in self.columns if c in whole.schema_arrow.names]
            groups = range(whole.num_row_groups)
            return total(self._look(whole.read_row_group(g, columns=columns)) for g in groups)

    def _look(self, table: pa.Table) -> Look:
        """The turns of all encoded images, the bits of those that are no label maps."""
        found = Look()
        for name in table.column_names:
            values = (v.get("bytes") if isinstance(v, dict) else v for v in table.column(name).to_pylist())
            seen = total(look(data) for data in values if isinstance(data, bytes))
            found += seen if name == "image" else Look(seen.turned)
        return found

    def _used(self, keys: Sequence[str]) -> list[str]:
        return sorted({self.places[k][0] for k in keys})

    def _group(self, file: str, group: int) -> pa.Table:
        with self.lock:
            if (file, group) not in self.held:
                with self.fs.open(self.files[file], "rb") as stream:
                    whole = pq.ParquetFile(stream)
                    columns = [c for c in self.columns if c in whole.schema_arrow.names]
                    self.held[(file, group)] = whole.read_row_group(group, columns=columns)
                while len(self.held) > ROW_GROUPS_HELD:
                    self.held.popitem(last=False)
            self.held.move_to_end((file, group))
            return self.held[(file, group)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in self.__dict__.items() if name not in ("held", "lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, held=OrderedDict(), lock=threading.Lock())


@dataclass(frozen=True)
class Row:
    """Where a row of a Parquet file lies, and its light columns (no image bytes)."""

    file: str
    group: int
    offset: int
    number: int
    """Among the rows of the file."""
    values: dict[str, Any]

    @property
    def path(self) -> str | None:
        image = self.values.get("image")
        return image and image["path"]

    @property
    def place(self) -> tuple[str, int, int]:
        return self.file, self.group, self.offset

    @property
    def numbered(self) -> str:
        """A key for a row whose path is no use."""
        return f"{posixpath.splitext(self.file)[0]}/{self.number:08d}"


def list_rows(fs: Any, path: str, name: str, light: Callable[[pa.Schema], list[str]]) -> list[Row]:
    """The rows of one Parquet file, called ``name``; ``light`` says which columns are read while listing, or
    raises DataError. Raises DataError for what is not Parquet."""
    rows: list[Row] = []
    try:
        with fs.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            columns = light(file.schema_arrow)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                table = file.read_row_group(group, columns=columns).to_pylist() if columns else [{}] * count
                first = len(rows)
                rows += [Row(name, group, i, first + i, values) for i, values in enumerate(table)]
    except Exception as error:
        if not broken_parquet(error):
            with reading(path):
                raise
        raise DataError(f"{path} is not readable Parquet ({error}).") from None
    return rows


def check_encoded(schema: pa.Schema, column: str, path: str) -> list[str]:
    """The column of its paths, if a column of encoded images has one. Raises DataError for another type."""
    kind = schema.field(column).type
    struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"The column {column!r} of {path} is {kind}, but must be struct<bytes, path> or binary."
        )
    return [f"{column}.path"] if struct and kind.get_field_index("path") >= 0 else []


def is_relative(path: str) -> bool:
    """Whether a path stays inside the folder that it is relative to."""
    return not path.startswith("/") and "\\" not in path and ".." not in path.split("/") and "\0" not in path


def open_location(path: str) -> tuple[Any, str]:
    """(fsspec file system, path on it). Raises DataError for a location that cannot be opened or does not
    exist."""
    try:
        fs, root = locate(path, DataError)
        root = root.rstrip("/") or "/"
        if not kind_of(fs, root):
            raise DataError(f"{path} does not exist: check the path.")
        if found := in_archive(fs, root):
            return found
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be opened ({error}): check the location and its protocol.") from None
    return fs, root


def in_archive(fs: Any, path: str) -> tuple[Any, str] | None:
    """(its members as a file system, their folder) of an archive; None for another file. Raises DataError."""
    from diffadapt.data.archive_files import is_archive, open_archives

    if not (is_archive(path) and is_file(fs, path)):
        return None
    files = open_archives(fs, [path])
    return files, files.root


def source_name(root: str) -> str:
    name = posixpath.basename(root.rstrip("/"))
    # The members of an archive lie in a folder that is called as it with an exclamation mark.
    stem = name.partition(".")[0] if name.endswith("!") else posixpath.splitext(name)[0]
    return stem or "scenes"


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: the names of the sub-folders directly in it, and every file as relative key
    -> path. Names that begin with a dot, and what this package wrote, are not part of it."""

    folders: list[str]
    files: dict[str, str]
    unnamed: list[str]
    """Files and folders whose names are not UTF-8, their bytes escaped; they are not among the others."""
    lost: list[str] = field(default_factory=list)
    """Links that lead to no file (their target is gone, or they lead in a circle), pipes and devices."""


def list_tree(fs: Any, root: str) -> tuple[list[str], dict[str, str]]:
    """Folders and files of :func:`walk`. Raises DataError for a name that is not UTF-8 too."""
    tree = walk(fs, root)
    if tree.unnamed:
        raise DataError(f"{tree.unnamed[0]} in {root} has a name that is not UTF-8: rename it.")
    if tree.lost:
        raise DataError(f"{tree.lost[0]} in {root} is {NO_FILE}: get its file again, or remove it.")
    return tree.folders, tree.files


def walk(fs: Any, root: str) -> Tree:
    """Everything below ``root``. Raises DataError for a symbolic link that leads out of it, unless it is one
    of a Hugging Face cache."""
    if is_local(fs):
        return _walk_local(root)
    found = fs.find(root, withdirs=True, detail=True).items()
    paths = {posixpath.relpath(path, root): (path, info["type"]) for path, info in found}
    names: dict[str, set[str]] = {}
    for key in paths:
        names.setdefault(posixpath.dirname(key), set()).add(posixpath.basename(key))
    own = {
        f"{f}/{name}" if f else name
        for f, ns in names.items()
        for name in _own_parts(fs.cat_file, root, f, ns)
    }
    own |= {f for f, ns in names.items() if f and _is_own(fs.cat_file, posixpath.join(root, f), ns)}
    files: dict[str, str] = {}
    folders: set[str] = set()
    for key, (path, kind) in paths.items():
        parts = key.split("/")
        if key == "." or any(p.startswith(".") for p in parts):
            continue
        if any("/".join(parts[:i]) in own for i in range(1, len(parts) + 1)):
            continue
        if kind == "directory":
            folders.add(parts[0])
        else:
            files[key] = path
            if len(parts) > 1:
                folders.add(parts[0])
    return Tree(sorted(folders), files, [])


def _walk_local(root: str) -> Tree:
    folders: list[str] = []
    files: dict[str, str] = {}
    unnamed: list[str] = []
    lost: list[str] = []
    pending = [("", root)]
    seen = {os.path.realpath(root)}
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
        names = {entry.name for entry in entries}
        if prefix and _is_own(_read_local, folder, names):
            folders = [f for f in folders if f"{f}/" != prefix]
            continue
        own = _own_parts(_read_local, root, prefix.rstrip("/"), names)
        for entry in entries:
            if entry.name in own:
                continue
            key = f"{prefix}{entry.name}"
            if not is_utf8(key):
                unnamed.append(readable(key))
                continue
            plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if not plain and no_file(entry.path):
                lost.append(key)
                continue
            if entry.is_symlink():
                stay_inside(entry.path, root)
            if entry.is_dir():
                if not prefix:
                    folders.append(entry.name)
                # A link to a folder above would otherwise be followed round and round.
                real = os.path.realpath(entry.path)
                if not (entry.is_symlink() and real in seen):
                    seen.add(real)
                    pending.append((f"{key}/", entry.path))
            else:
                files[key] = entry.path
    return Tree(sorted(folders), files, sorted(unnamed), sorted(lost))


def _is_own(read: Callable[[str], bytes], folder: str, names: Collection[str]) -> bool:
    """Whether this package wrote the folder of these names: a root, a store of one, or predicted label
    maps."""
    if "store.json" in names and _is_store(read, folder):
        return True
    if "store" in names and _is_store(read, posixpath.join(folder, "store")):
        return True
    return {"labels", "overlays", "predictions.csv", "classes.csv"} <= set(names)


def _own_parts(
    read: Callable[[str], bytes], root: str, folder: str, names: Collection[str]
) -> Collection[str]:
    """What this package wrote among ``names`` of the top folder, where that is a root itself."""
    if not folder and "store" in names and _is_store(read, posixpath.join(root, "store")):
        return ("store", "runs", "sweeps", "ledger", "jobs")
    return ()


def _read_local(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _is_store(read: Callable[[str], bytes], folder: str) -> bool:
    try:
        return list(json.loads(read(posixpath.join(folder, "store.json")))) == ["format"]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, TypeError):
        return False


def is_utf8(name: str) -> bool:
    """Whether a name of the file system is text; others have lone surrogates in Python."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """A name that can be printed: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def left_out(keys: Collection[str]) -> str:
    """How many of these files are neither images nor what lies beside images, by suffix: '10 files left out:
    8 .heic, 2 .mp4'; empty for none."""
    counts: Counter[str] = Counter()
    for key in keys:
        stem, suffix = posixpath.splitext(posixpath.basename(key))
        if suffix.lower() in SUFFIXES + BESIDE or (not suffix and stem.isupper()):  # README, LICENSE
            continue
        counts[suffix.lower() or "without a suffix"] += 1
    total = sum(counts.values())
    shown = ", ".join(f"{n:,} {suffix}" for suffix, n in counts.most_common(8))
    more = f" and {len(counts) - 8} more kinds" if len(counts) > 8 else ""
    return f"{total:,} file{'s' * (total != 1)} left out: {shown}{more}" if counts else ""


def stay_inside(path: str, root: str) -> None:
    """Raise DataError for a link that leads out of ``root``. The files of a Hugging Face cache are links,
    snapshots/<revision>/<name> to blobs/<hash>, and stay inside."""
    real = os.path.realpath(path)
    cache, blobs = os.path.split(os.path.dirname(real))
    if blobs == "blobs" and os.path.realpath(os.path.dirname(path)).startswith(f"{cache}/snapshots/"):
        return
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise DataError(f"{path} is a link that leads out of {root}: copy the images into the folder.")


NO_FILE = "no file: a link that leads nowhere, or a pipe or device"


def no_file(path: str) -> bool:
    """Whether what is listed at a local ``path`` is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return True
        raise
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))

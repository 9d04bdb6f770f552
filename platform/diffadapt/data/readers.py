"""Where the bytes of images and scenes lie: in files, or in the rows of Parquet files."""

from __future__ import annotations

import os
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.location import locate
from diffadapt.data.hashes import hash_files

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File names that count as images (torchvision's list); hidden files and all others are ignored."""
ROW_GROUPS_HELD = 2


@dataclass(frozen=True)
class FileReader:
    """One file an image; ``paths[key]`` is its path on ``fs``."""

    fs: Any
    root: str
    paths: dict[str, str]

    def read(self, key: str) -> bytes:
        try:
            return self.fs.cat_file(self.paths[key])
        except OSError as error:
            raise ItemError(f"{key} cannot be read ({error.strerror or error}).") from None

    def locality(self, key: str) -> str:
        return key

    def total_bytes(self, keys: Sequence[str]) -> int:
        return sum(self._size(k) for k in keys)

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        if not content:
            return [self._size(k) for k in keys]
        hashes = hash_files(self.fs, self.root, [self.paths[k] for k in keys])
        return [hashes[self.paths[k]] for k in keys]

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
        except (OSError, pa.ArrowException) as error:
            raise ItemError(f"{key} cannot be read from {file} ({error}).") from None
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
    except (OSError, pa.ArrowException) as error:
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
        if not fs.exists(root):
            raise DataError(f"{path} does not exist: check the path.")
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be opened ({error}): check the location and its protocol.") from None
    return fs, root


def source_name(root: str) -> str:
    return posixpath.splitext(posixpath.basename(root.rstrip("/")))[0] or "scenes"


def list_tree(fs: Any, root: str) -> tuple[list[str], dict[str, str]]:
    """The names of the sub-folders directly under ``root``, and every file below it as relative key -> path.

    Names that begin with a dot are left out. Raises DataError for a symbolic link that leads out of ``root``.
    """
    if is_local(fs):
        return _list_local(root)
    files: dict[str, str] = {}
    folders: set[str] = set()
    for path, info in fs.find(root, withdirs=True, detail=True).items():
        key = posixpath.relpath(path, root)
        parts = key.split("/")
        if key == "." or any(p.startswith(".") for p in parts):
            continue
        if info["type"] == "directory":
            folders.add(parts[0])
        else:
            files[key] = path
            if len(parts) > 1:
                folders.add(parts[0])
    return sorted(folders), files


def _list_local(root: str) -> tuple[list[str], dict[str, str]]:
    folders: list[str] = []
    files: dict[str, str] = {}
    pending = [("", root)]
    seen = {os.path.realpath(root)}
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    stay_inside(entry.path, root)
                key = f"{prefix}{entry.name}"
                if entry.is_dir():
                    if not prefix:
                        folders.append(entry.name)
                    # A link to a folder above would otherwise be followed round and round.
                    real = os.path.realpath(entry.path)
                    if not (entry.is_symlink() and real in seen):
                        seen.add(real)
                        pending.append((f"{key}/", entry.path))
                elif entry.is_file():
                    files[key] = entry.path
    return sorted(folders), files


def stay_inside(path: str, root: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise DataError(f"{path} is a link that leads out of {root}: copy the images into the folder.")


def is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))

"""Image sets in Parquet: a column ``image`` (struct<bytes, path>, or binary), optionally ``label`` and
``class_name``."""

from __future__ import annotations

import json
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.config import DataConfig
from diffadapt.data.hashes import hash_files
from diffadapt.data.labels import bind_names, read_class_list
from diffadapt.data.source import Item, Source

ROW_GROUPS_HELD = 2


def scan_parquet(
    config: DataConfig, fs: Any, root: str, files: dict[str, str], subset: bool = False
) -> Source:
    """The rows of ``files`` (relative name -> path). Only paths and labels are read here, not the images.

    A key is the row's ``image.path`` when all of them are present, distinct and relative, else
    ``{file}/{row:08d}``. Class names are taken from ``config.classes``, ``class_name``, or the Hugging Face
    metadata of ``label``, in this order; else they are the labels as text. Rows count as unlabelled unless
    ``config.labels`` is 'auto'. ``subset``: classes of the class list may be absent. Raises DataError.
    """
    rows: list[_Row] = []
    names: tuple[str, ...] | None = None
    for name, path in sorted(files.items()):
        found, hf_names = _read_columns(fs, path, name)
        rows += found
        names = names or hf_names
    if not rows:
        raise DataError(f"{config.path} holds no rows.")
    keys = _keys(rows)
    class_names, labels = _labels(config, rows, names, subset)
    places = {k: (r.file, r.group, r.offset) for k, r in zip(keys, rows, strict=True)}
    items = tuple(
        sorted((Item(k, label) for k, label in zip(keys, labels, strict=True)), key=lambda item: item.key)
    )
    source_name = posixpath.splitext(posixpath.basename(root))[0] or "images"
    if root in files.values():
        source_name = f"{posixpath.basename(posixpath.dirname(root)) or 'images'}-{source_name}"
    return Source(
        source_name, class_names, items, ParquetReader(fs, root, dict(files), places), config.fingerprint
    )


@dataclass
class ParquetReader:
    """Reads images by row; holds the last row groups, so reading in the order of :meth:`locality` decodes
    each once."""

    fs: Any
    root: str
    files: dict[str, str]
    places: dict[str, tuple[str, int, int]]
    held: OrderedDict = field(default_factory=OrderedDict, repr=False)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def read(self, key: str) -> bytes:
        file, group, offset = self.places[key]
        try:
            value = self._group(file, group)[offset].as_py()
        except (OSError, pa.ArrowException) as error:
            raise ItemError(f"{key} cannot be read from {file} ({error}).") from None
        if value is None:
            raise ItemError(f"{key} has no image bytes in {file}.")
        return value

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

    def _group(self, file: str, group: int) -> Any:
        with self.lock:
            if (file, group) not in self.held:
                with self.fs.open(self.files[file], "rb") as stream:
                    self.held[(file, group)] = self._load(pq.ParquetFile(stream), group)
                while len(self.held) > ROW_GROUPS_HELD:
                    self.held.popitem(last=False)
            self.held.move_to_end((file, group))
            return self.held[(file, group)]

    def _load(self, file: pq.ParquetFile, group: int) -> Any:
        """What is held of a row group: the column of encoded images."""
        column = file.read_row_group(group, columns=["image"]).column("image").combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        return column.field("bytes") if pa.types.is_struct(column.type) else column

    def __getstate__(self) -> dict[str, Any]:
        return {"fs": self.fs, "root": self.root, "files": self.files, "places": self.places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, held=OrderedDict(), lock=threading.Lock())


@dataclass(frozen=True)
class _Row:
    file: str
    group: int
    offset: int
    number: int
    path: str | None
    label: int | None
    class_name: str | None


def _read_columns(fs: Any, path: str, name: str) -> tuple[list[_Row], tuple[str, ...] | None]:
    try:
        with fs.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            if "image" not in schema.names:
                raise DataError(f"{path} has no column 'image' (it has {', '.join(schema.names)}).")
            image = schema.field("image").type
            if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 or _is_binary(image)):
                raise DataError(
                    f"The column 'image' of {path} is {image}, but must be struct<bytes, path> or binary."
                )
            if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
                raise DataError(
                    f"The column 'label' of {path} is {schema.field('label').type}, but must be an integer."
                )
            has_path = pa.types.is_struct(image) and image.get_field_index("path") >= 0
            wanted = (["image.path"] if has_path else []) + [
                c for c in ("label", "class_name") if c in schema.names
            ]
            rows: list[_Row] = []
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                table = file.read_row_group(group, columns=wanted) if wanted else None
                column = (
                    {c: table.column(c).to_pylist() for c in table.column_names} if table is not None else {}
                )
                paths = [v and v["path"] for v in column.get("image", [None] * count)]
                labels = column.get("label", [None] * count)
                names = column.get("class_name", [None] * count)
                for i in range(count):
                    rows.append(_Row(name, group, i, len(rows), paths[i], labels[i], names[i]))
            return rows, _hf_names(schema)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not readable Parquet ({error}).") from None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _hf_names(schema: pa.Schema) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _keys(rows: list[_Row]) -> list[str]:
    if all(r.path and _is_relative(r.path) for r in rows):
        paths = [posixpath.normpath(r.path) for r in rows]  # type: ignore[type-var]
        if len(set(paths)) == len(paths):
            return paths
    return [f"{posixpath.splitext(r.file)[0]}/{r.number:08d}" for r in rows]


def _is_relative(path: str) -> bool:
    return not path.startswith("/") and "\\" not in path and ".." not in path.split("/") and "\0" not in path


def _labels(
    config: DataConfig, rows: list[_Row], hf_names: tuple[str, ...] | None, subset: bool
) -> tuple[tuple[str, ...], list[int | None]]:
    listed = read_class_list(config.classes) if config.classes else None
    named = [r.class_name for r in rows]
    numbers = [r.label for r in rows]
    if config.labels != "auto" or (all(n is None for n in named) and all(n is None for n in numbers)):
        return listed or (), [None] * len(rows)
    if any(n is not None for n in named):
        if any(n is None for n in named):
            raise DataError(
                f"{config.path} has rows without class_name beside rows with one: complete the column."
            )
        found = sorted(set(named))  # type: ignore[type-var]
        if listed is None and any(n is not None for n in numbers):
            by_number = _number_to_name(config, rows)
            listed = hf_names or tuple(by_number[i] for i in sorted(by_number))
            if any(not 0 <= i < len(listed) or listed[i] != name for i, name in by_number.items()):
                listed = None  # numbers with gaps: sorted names are the only order left
        names, index = bind_names(
            found, listed, config.path, subset=subset or (listed is not None and not config.classes)
        )
        return names, [index[n] for n in named]  # type: ignore[index]
    if any(n is None for n in numbers):
        raise DataError(f"{config.path} has rows without a label beside rows with one: complete the column.")
    names = listed or hf_names or tuple(str(i) for i in range(max(numbers) + 1))  # type: ignore[type-var,operator]
    bad = [n for n in numbers if not 0 <= n < len(names)]  # type: ignore[operator]
    if bad:
        raise DataError(f"{config.path} has the label {bad[0]}, but there are {len(names)} class names.")
    return names, numbers


def _number_to_name(config: DataConfig, rows: list[_Row]) -> dict[int, str]:
    found: dict[int, str] = {}
    for r in rows:
        if r.label is None:
            raise DataError(
                f"{config.path} has rows without a label beside rows with one: complete the column."
            )
        if found.setdefault(r.label, r.class_name) != r.class_name:  # type: ignore[arg-type]
            raise DataError(
                f"{config.path} gives the label {r.label} to both {found[r.label]!r} and {r.class_name!r}:"
                " mend the columns."
            )
    return found

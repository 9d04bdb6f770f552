"""Scenes in Parquet: columns ``image`` and ``annotation`` (struct<bytes, path>, or binary), optionally
``sequence``, ``colours``, ``objects``."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.folder import list_tree
from diffadapt.data.labels import some
from diffadapt.data.parquet import ParquetReader
from diffadapt.data.scenes.classes import class_table, reading_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.source import RawScene, SceneItem, SceneSource, open_location, source_name

COLUMNS = ("image", "annotation", "colours", "objects")


def open_parquet(config: SceneConfig) -> SceneSource:
    """The rows of a Parquet file, or of all below a folder, of ``config.sequences`` where given (column
    ``sequence``).

    A key is the name in ``image.path`` without folders and suffix where these are distinct, else that path
    without suffix, else file and row number. Values of the annotations go through the class table. Raises
    DataError.
    """
    fs, root = open_location(config.path)
    if fs.isfile(root):
        files = {posixpath.basename(root): root}
    else:
        files = {name: path for name, path in list_tree(fs, root)[1].items() if name.endswith(".parquet")}
    if not files:
        raise DataError(f"{config.path} holds no Parquet files: give a file or a folder of them.")
    rows = [row for name, path in sorted(files.items()) for row in _rows(fs, path, name, config)]
    if not rows:
        raise DataError(
            f"{config.path} holds no"
            f" rows{f' of the sequences {some(config.sequences)}' if config.sequences else ''}: check the"
            f" path{' and the sequences' if config.sequences else ''}."
        )
    keys = _keys(rows)
    places = {key: (row.file, row.group, row.offset) for key, row in zip(keys, rows, strict=True)}
    items = tuple(
        SceneItem(key, key, key if row.labelled else None) for key, row in zip(keys, rows, strict=True)
    )
    labelled = any(row.labelled for row in rows)
    lost = [i.key for i in items if i.label is None]
    if labelled and lost and not config.partial:
        raise DataError(
            f"{config.path} holds {len(lost):,} images without a label map, such as {some(lost, 3)}: fill the"
            " column annotation, or allow a partial copy."
        )
    table = class_table(config)
    name = (
        source_name(root)
        if root not in files.values()
        else f"{source_name(posixpath.dirname(root))}-{source_name(root)}"
    )
    return SceneSource(
        name,
        items,
        table,
        reading_table(table, "trainid" in root.lower()),
        SceneParquet(fs, root, dict(files), places),
        labelled,
    )


class SceneParquet(ParquetReader):
    """Rows of Parquet files as scenes; holds the last row groups."""

    def read(self, item: SceneItem) -> RawScene:  # type: ignore[override]
        row = self._row(item.key)
        image, label, colours = (_bytes(row.get(name)) for name in COLUMNS[:3])
        if image is None:
            raise ItemError(f"{item.key} has no image bytes in {self.places[item.key][0]}.")
        return RawScene(image, label, colours, row.get("objects"))

    def image(self, item: SceneItem) -> bytes:
        return self.read(item).image

    def total_bytes(self, items: Sequence[SceneItem]) -> int:  # type: ignore[override]
        return super().total_bytes([i.key for i in items])

    def identities(self, items: Sequence[SceneItem], content: bool) -> list[Any]:  # type: ignore[override]
        return super().identities([i.key for i in items], content)

    def _row(self, key: str) -> dict[str, Any]:
        file, group, offset = self.places[key]
        try:
            return self._group(file, group).slice(offset, 1).to_pylist()[0]
        except (OSError, pa.ArrowException) as error:
            raise ItemError(f"{key} cannot be read from {file} ({error}).") from None

    def _load(self, file: pq.ParquetFile, group: int) -> Any:
        """All columns that scenes have."""
        return file.read_row_group(group, columns=[c for c in COLUMNS if c in file.schema_arrow.names])


@dataclass(frozen=True)
class _Row:
    file: str
    group: int
    offset: int
    number: int
    path: str | None
    labelled: bool


def _rows(fs: Any, path: str, name: str, config: SceneConfig) -> list[_Row]:
    try:
        with fs.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            _check(schema, path, config)
            found: list[_Row] = []
            number = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                wanted = [c for c in _light_columns(schema, config)]
                table = file.read_row_group(group, columns=wanted) if wanted else None
                columns = (
                    {c: table.column(c).to_pylist() for c in table.column_names} if table is not None else {}
                )
                paths = [None if v is None else v.get("path") for v in columns.get("image", [None] * count)]
                nulls = (
                    [v is None for v in columns["annotation"]]
                    if "annotation" in columns
                    else [not config.labels or "annotation" not in schema.names] * count
                )
                sequences = columns.get("sequence", [""] * count)
                for i in range(count):
                    if not config.sequences or sequences[i] in config.sequences:
                        found.append(_Row(name, group, i, number, paths[i], not nulls[i]))
                    number += 1
            return found
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not readable Parquet ({error}).") from None


def _check(schema: pa.Schema, path: str, config: SceneConfig) -> None:
    if "image" not in schema.names:
        raise DataError(f"{path} has no column 'image' (it has {', '.join(schema.names)}).")
    if config.labels and "annotation" not in schema.names:
        raise DataError(
            f"{path} has no column 'annotation' (it has {', '.join(schema.names)}): set labels to '' where"
            " there is no truth."
        )
    for column in ("image", "annotation"):
        kind = schema.field(column).type if column in schema.names else None
        if kind is not None and not (
            _is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            raise DataError(
                f"The column {column!r} of {path} is {kind}, but must be struct<bytes, path> or binary."
            )
    if config.sequences and "sequence" not in schema.names:
        raise DataError(
            f"{path} has no column 'sequence' (it has {', '.join(schema.names)}): leave sequences empty."
        )


def _light_columns(schema: pa.Schema, config: SceneConfig) -> list[str]:
    """Columns that are read while listing: no image bytes."""
    found = [
        f"{c}.path"
        for c in ("image", "annotation")
        if c in schema.names
        and _is_struct(schema.field(c).type)
        and schema.field(c).type.get_field_index("path") >= 0
    ]
    if not config.labels:
        found = [c for c in found if not c.startswith("annotation")]
    return found + (["sequence"] if config.sequences else [])


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _keys(rows: list[_Row]) -> list[str]:
    paths = [posixpath.splitext(posixpath.normpath(r.path))[0] if r.path else "" for r in rows]
    if all(p and not p.startswith("/") and ".." not in p.split("/") and "\\" not in p for p in paths):
        names = [posixpath.basename(p) for p in paths]
        for choice in (names, paths):
            if len(set(choice)) == len(choice):
                return choice
    return [f"{posixpath.splitext(r.file)[0]}/{r.number:08d}" for r in rows]


def _bytes(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value

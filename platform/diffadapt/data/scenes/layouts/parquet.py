"""Scenes in Parquet: columns ``image`` and ``annotation`` (struct<bytes, path>, or binary), optionally
``sequence``, ``colours``, ``objects``."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from diffadapt.core.errors import DataError
from diffadapt.data.labels import some
from diffadapt.data.looks import Look
from diffadapt.data.readers import (
    ParquetReader,
    Row,
    check_encoded,
    is_relative,
    list_rows,
    list_tree,
    open_location,
    source_name,
)
from diffadapt.data.reading import is_file
from diffadapt.data.scenes.cityscapes import names_tell, reading_table
from diffadapt.data.scenes.classes import reading_classes
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import Layout
from diffadapt.data.scenes.scene import RawScene, SceneFiles, SceneItem, SceneSource

COLUMNS = ("image", "annotation", "colours", "objects")


@dataclass(frozen=True)
class ParquetScenes(Layout):
    """Rows of Parquet files."""

    def open(self, config: SceneConfig) -> SceneSource:
        return open_parquet(config)


LAYOUT = ParquetScenes("Parquet")


def open_parquet(config: SceneConfig) -> SceneSource:
    """The rows of a Parquet file, or of all below a folder, of ``config.sequences`` where given (column
    ``sequence``).

    A key is the name in ``image.path`` without folders and suffix where these are distinct, else that path
    without suffix, else file and row number. Values of the annotations go through the class table. Raises
    DataError.
    """
    fs, root = open_location(config.path)
    if is_file(fs, root):
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
    places = {key: row.place for key, row in zip(keys, rows, strict=True)}
    truth = [_labelled(row, config) for row in rows]
    items = tuple(SceneItem(k, k, k if labelled else None) for k, labelled in zip(keys, truth, strict=True))
    labelled = any(truth)
    lost = [i.key for i in items if i.label is None]
    if labelled and lost and not config.partial:
        raise DataError(
            f"{config.path} holds {len(lost):,} images without a label map, such as {some(lost, 3)}: fill the"
            " column annotation, or allow a partial copy."
        )
    table, name = reading_classes(config), source_name(root)
    if root in files.values():
        name = f"{source_name(posixpath.dirname(root))}-{name}"
    reader = SceneRows(ParquetReader(fs, root, dict(files), places, COLUMNS))
    return SceneSource(name, items, table, reading_table(table, names_tell([root])), reader, labelled)


@dataclass(frozen=True)
class SceneRows(SceneFiles):
    """Rows of Parquet files as scenes; a scene's key is its row's."""

    files: ParquetReader

    def read(self, item: SceneItem) -> RawScene:
        row = self.files.row(item.key)
        return RawScene(row["image"], *map(row.get, COLUMNS[1:]))

    def looked(self, items: Sequence[SceneItem], content: bool) -> Look:
        return self.files.looked([i.key for i in items], content)


def _rows(fs: Any, path: str, name: str, config: SceneConfig) -> list[Row]:
    rows = list_rows(fs, path, name, lambda schema: _light(schema, path, config))
    return [r for r in rows if not config.sequences or r.values["sequence"] in config.sequences]


def _labelled(row: Row, config: SceneConfig) -> bool:
    """Whether a row has a label map, as far as its light columns say."""
    return bool(config.labels) and row.values.get("annotation", "") is not None


def _light(schema: pa.Schema, path: str, config: SceneConfig) -> list[str]:
    """Columns that are read while listing: no image bytes. Raises DataError for another schema."""
    has = f"(it has {', '.join(schema.names)})"
    if "image" not in schema.names:
        raise DataError(f"{path} has no column 'image' {has}.")
    if config.labels and "annotation" not in schema.names:
        raise DataError(f"{path} has no column 'annotation' {has}: set labels to '' where there is no truth.")
    columns = check_encoded(schema, "image", path)
    truth = check_encoded(schema, "annotation", path) if "annotation" in schema.names else []
    if config.labels:
        columns += truth
    if config.sequences and "sequence" not in schema.names:
        raise DataError(f"{path} has no column 'sequence' {has}: leave sequences empty.")
    return columns + (["sequence"] if config.sequences else [])


def _keys(rows: list[Row]) -> list[str]:
    paths = [posixpath.splitext(posixpath.normpath(r.path))[0] if r.path else "" for r in rows]
    if all(p and is_relative(p) for p in paths):
        names = [posixpath.basename(p) for p in paths]
        for choice in (names, paths):
            if len(set(choice)) == len(choice):
                return choice
    return [row.numbered for row in rows]

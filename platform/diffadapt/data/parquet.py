"""Image sets in Parquet: a column ``image`` (struct<bytes, path>, or binary), optionally ``label`` and
``class_name``."""

from __future__ import annotations

import posixpath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.errors import DataError
from diffadapt.core.foreign import parse
from diffadapt.data.config import DataConfig
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, read_class_list
from diffadapt.data.readers import ParquetReader, Row, check_encoded, is_relative, list_rows
from diffadapt.data.reading import broken_parquet, reading


def scan_parquet(
    config: DataConfig, fs: Any, root: str, files: dict[str, str], subset: bool = False
) -> Source:
    """The rows of ``files`` (relative name -> path). Only paths and labels are read here, not the images.

    A key is the row's ``image.path`` when all of them are present, distinct and relative, else
    ``{file}/{row:08d}``. Class names are taken from ``config.classes``, ``class_name``, or the Hugging Face
    metadata of ``label``, in this order; else they are the labels as text. Rows count as unlabelled unless
    ``config.labels`` is 'auto'. ``subset``: classes of the class list may be absent. Raises DataError.
    """
    rows: list[Row] = []
    names: list[tuple[str, ...] | None] = []

    def light(schema: pa.Schema) -> list[str]:
        columns = _light(schema, path)
        names.append(_hf_names(schema))
        return columns

    for name, path in sorted(files.items()):
        rows += list_rows(fs, path, name, light)
    if not rows:
        raise DataError(f"{config.path} holds no rows.")
    keys = _keys(rows)
    hf_names = next((n for n in names if n), None)
    class_names, labels = _labels(config, rows, hf_names, subset)
    numbered = not (config.classes or hf_names or any(r.values.get("class_name") is not None for r in rows))
    reader = ParquetReader(fs, root, dict(files), {k: r.place for k, r in zip(keys, rows, strict=True)})
    items = sorted(map(Item, keys, labels), key=lambda item: item.key)
    source_name = posixpath.splitext(posixpath.basename(root))[0] or "images"
    if root in files.values():
        source_name = f"{posixpath.basename(posixpath.dirname(root)) or 'images'}-{source_name}"
    return Source(source_name, class_names, tuple(items), reader, config.fingerprint, numbered)


def holds_images(fs: Any, path: str, broken: bool) -> bool:
    """Whether a Parquet file has a column ``image`` of encoded images; ``broken`` for one that is no whole
    Parquet. DataError where it cannot be read."""
    with reading(path), fs.open(path, "rb") as stream:
        try:
            schema = pq.ParquetFile(stream).schema_arrow
        except Exception as error:
            if broken_parquet(error):
                return broken
            raise
    try:
        check_encoded(schema, "image", path)
    except (KeyError, DataError):
        return False
    return True


def _light(schema: pa.Schema, path: str) -> list[str]:
    """Columns that are read while listing. Raises DataError for a schema that does not fit."""
    if "image" not in schema.names:
        raise DataError(f"{path} has no column 'image' (it has {', '.join(schema.names)}).")
    paths = check_encoded(schema, "image", path)
    if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
        raise DataError(
            f"The column 'label' of {path} is {schema.field('label').type}, but must be an integer."
        )
    return paths + [c for c in ("label", "class_name") if c in schema.names]


def _hf_names(schema: pa.Schema) -> tuple[str, ...] | None:
    try:
        features = parse((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _keys(rows: list[Row]) -> list[str]:
    paths = [posixpath.normpath(r.path) for r in rows if r.path and is_relative(r.path)]
    return paths if len(set(paths)) == len(rows) else [r.numbered for r in rows]


def _labels(
    config: DataConfig, rows: list[Row], hf_names: tuple[str, ...] | None, subset: bool
) -> tuple[tuple[str, ...], list[int | None]]:
    listed = read_class_list(config.classes) if config.classes else None
    named = [name for r in rows if (name := r.values.get("class_name")) is not None]
    numbers = [number for r in rows if (number := r.values.get("label")) is not None]
    if numbers and not named and set(numbers) == {-1}:  # as the Hub's test splits say that they have none
        numbers = []
    if config.labels != "auto" or not (named or numbers):
        return listed or (), [None] * len(rows)
    if named:
        if len(named) < len(rows):
            raise DataError(
                f"{config.path} has rows without class_name beside rows with one: complete the column."
            )
        if listed is None and numbers:
            by_number = _number_to_name(config, rows)
            listed = hf_names or tuple(by_number[i] for i in sorted(by_number))
            if any(not 0 <= i < len(listed) or listed[i] != name for i, name in by_number.items()):
                listed = None  # numbers with gaps: sorted names are the only order left
        lenient = subset or (listed is not None and not config.classes)
        names, index = bind_names(sorted(set(named)), listed, config.path, subset=lenient)
        return names, [index[n] for n in named]
    if len(numbers) < len(rows):
        raise DataError(f"{config.path} has rows without a label beside rows with one: complete the column.")
    names = listed or hf_names or tuple(str(i) for i in range(max(numbers) + 1))
    bad = [n for n in numbers if not 0 <= n < len(names)]
    if bad:
        raise DataError(f"{config.path} has the label {bad[0]}, but there are {len(names)} class names.")
    return names, list(numbers)


def _number_to_name(config: DataConfig, rows: list[Row]) -> dict[int, str]:
    names: dict[int, str] = {}
    for row in rows:
        label, name = row.values["label"], row.values["class_name"]
        if label is None:
            raise DataError(
                f"{config.path} has rows without a label beside rows with one: complete the column."
            )
        if names.setdefault(label, name) != name:
            raise DataError(
                f"{config.path} gives the label {label} to both {names[label]!r} and {name!r}: mend the"
                " columns."
            )
    return names

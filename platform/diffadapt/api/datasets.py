"""Images and scores as Datasets of Hugging Face, and Datasets as images that recipes read."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.api.calls import called
from diffadapt.api.given import encoded
from diffadapt.api.places import Place, open_root
from diffadapt.core.errors import DataError, ResourceError, suggest
from diffadapt.core.files import scratch
from diffadapt.core.location import there
from diffadapt.core.place import located, write_file, writing
from diffadapt.core.runs import Root
from diffadapt.core.store import is_local

if TYPE_CHECKING:
    import datasets
    import pandas as pd

FOLDER = "datasets"
"""Where data sets of calls lie, beside the store and the runs."""
ROWS = 256
"""Images that are held in memory while a data set is written."""


@dataclass(frozen=True)
class Stored(os.PathLike):
    """A data set as a Parquet file that every recipe reads: ``da.recipe(..., target=stored)``. ``path``: the
    file, called after its content; ``classes``: a text file with its class names, '' where it has none."""

    path: str
    rows: int
    class_names: tuple[str, ...] = ()
    classes: str = ""

    def __fspath__(self) -> str:
        return self.path


@called
def from_dataset(
    dataset: datasets.Dataset,
    *,
    root: Place | None = None,
    image: str | None = None,
    label: str | None = None,
) -> Stored:
    """``dataset`` as a source or target of recipes: written once under ``root`` (``datasets/``), under a name
    that its images, their order, labels and class names decide, so that a data set that is equal is found
    again, and so is all that was made of it.

    ``image``, ``label``: its columns, by default the only one of images, and ``label`` or the only
    ClassLabel. Encoded images keep their bytes; names of a ClassLabel are the class names. Raises DataError
    for a data set without images, ResourceError without Hugging Face's datasets.
    """
    _demand_library()
    import datasets as kinds

    if not isinstance(dataset, kinds.Dataset):
        hint = f": give one of its splits, {', '.join(dataset)}" if isinstance(dataset, Mapping) else ""
        raise DataError(f"The data set has the type {type(dataset).__name__}, not datasets.Dataset{hint}.")
    features = dataset.features
    image = _column(image, [n for n, f in features.items() if isinstance(f, kinds.Image)], features, "images")
    named = [n for n, f in features.items() if isinstance(f, kinds.ClassLabel)]
    if label is None:
        label = "label" if "label" in features else named[0] if len(named) == 1 else ""
    elif label not in features:
        raise DataError(f"The data set has no column {label!r}.{suggest(label, features)}")
    kind = features.get(label) if label else None
    if label and not _whole_numbers(dataset, label):
        raise DataError(
            f"The labels in {label!r} are no whole numbers: dataset.class_encode_column({label!r}) numbers"
            " them, or give another column as label."
        )
    names = tuple(kind.names) if isinstance(kind, kinds.ClassLabel) else ()
    plain = dataset.select_columns([image, label] if label else [image])
    plain = plain.cast_column(image, kinds.Image(decode=False))

    def rows() -> Iterator[tuple[bytes, str, int | None]]:
        row: Any  # a dict; the library types it as a list
        for row in plain:
            yield _bytes(row[image]), "", row[label] if label else None

    return _stored(rows(), names, open_root(root))


def from_images(images: Sequence[Any], root: Root) -> tuple[str, dict[str, str]]:
    """A data set of images as callers hold them (see :func:`~diffadapt.api.given.encoded`): (its place, path
    within it -> path as given). Files are called by their paths below the folder that they share, so that
    what their names decide is as if that folder had been given. DataError for one that cannot be read, and
    for none."""
    if not images:
        raise DataError("Give the images to predict: a folder, a glob, a Parquet file or a list of images.")
    paths = [os.fspath(p) for p in images if isinstance(p, (str, os.PathLike))]
    parents = [posixpath.dirname(p).split("/") for p in paths]
    shared = len(os.path.commonprefix(parents))
    keys: dict[str, str] = {}
    for i, image in enumerate(images):
        path = isinstance(image, (str, os.PathLike))
        name = os.fspath(image) if path else getattr(image, "key", f"image-{i:06d}")
        key = "/".join(name.split("/")[shared:]) if path else name
        keys[f"{i:06d}/{key}" if key in keys else key] = name
    stored = _stored(
        ((encoded(image, keys[key]), key, None) for key, image in zip(keys, images, strict=True)), (), root
    )
    return stored.path, keys


def images_dataset(
    pictures: Iterable[tuple[str, int | None, bytes]], names: Sequence[str]
) -> datasets.Dataset:
    """Columns image, label (ClassLabel where ``names``; -1 becomes None) and key of (key, label, encoded
    image)."""
    _demand_library()
    import datasets as kinds

    label = kinds.ClassLabel(names=list(names)) if names else kinds.Value("int64")
    features = kinds.Features({"image": kinds.Image(), "label": label, "key": kinds.Value("string")})
    columns: dict[str, list[Any]] = {"image": [], "label": [], "key": []}
    for key, number, data in pictures:
        columns["image"].append({"bytes": data, "path": None})
        columns["label"].append(None if number is None or number < 0 else number)
        columns["key"].append(key)
    return kinds.Dataset.from_dict(columns, features=features)


def scores_dataset(scores: pd.DataFrame) -> datasets.Dataset:
    """A row a score."""
    _demand_library()
    import datasets as kinds

    return kinds.Dataset.from_pandas(scores, preserve_index=False)


def _demand_library() -> None:
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise ResourceError(
            "Hugging Face's datasets is not installed: `pip install datasets` beside diffadapt."
        ) from None


def _whole_numbers(dataset: datasets.Dataset, column: str) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(dataset.features.arrow_schema.field(column).type)


def _column(given: str | None, found: Sequence[str], features: Mapping[str, Any], what: str) -> str:
    if given is not None:
        if given not in found:
            raise DataError(f"The data set has no column of {what} {given!r}.{suggest(given, features)}")
        return given
    if len(found) != 1:
        has = f"several columns of {what} ({', '.join(found)})" if found else f"no column of {what}"
        raise DataError(f"The data set has {has}: give image=, one of {', '.join(features)}.")
    return found[0]


def _bytes(cell: Mapping[str, Any] | None) -> bytes:
    if cell is None or (cell["bytes"] is None and not cell["path"]):
        raise DataError("The data set has a row without an image: leave such rows out.")
    return cell["bytes"] if cell["bytes"] is not None else encoded(cell["path"])


def _stored(rows: Iterator[tuple[bytes, str, int | None]], names: Sequence[str], root: Root) -> Stored:
    """Write (image, path, label) rows, unless a file of the same content is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", struct), ("label", pa.int64())], metadata=_metadata(names))
    seen, count = hashlib.sha256(json.dumps(list(names)).encode()), 0
    with scratch("dataset") as folder:
        file = os.path.join(folder, "new.parquet")
        with pq.ParquetWriter(file, schema) as writer:
            block: list[dict[str, Any]] = []
            for data, path, label in rows:
                seen.update(hashlib.sha256(data).digest() + f"{path}\0{label}\0".encode())
                block.append({"image": {"bytes": data, "path": path or None}, "label": label})
                count += 1
                if len(block) == ROWS:
                    writer.write_table(pa.Table.from_pylist(block, schema=schema))
                    block = []
            if block:
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
        if not count:
            raise DataError("The data set holds no images.")
        place = posixpath.join(root.location, FOLDER, f"{seen.hexdigest()[:16]}.parquet")
        _put(file, place)
    classes = f"{place.removesuffix('.parquet')}-classes.txt" if names else ""
    if classes:
        write_file(classes, "".join(f"{name}\n" for name in names).encode())
    return Stored(place, count, tuple(names), classes)


def _put(file: str, place: str) -> None:
    """The finished local ``file`` at ``place``, whole or not at all, unless it is there."""
    with writing(place):
        fs, path = located(place)
        if there(fs, path):
            return
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        if not is_local(fs):
            fs.put_file(file, path)
            return
        beside = f"{path}.{os.getpid()}.tmp"
        shutil.copyfile(file, beside)
        os.replace(beside, path)


def _metadata(names: Sequence[str]) -> dict[str, str]:
    """The features as Hugging Face's own files state them: readers take the class names from there."""
    label: dict[str, Any] = {"_type": "ClassLabel", "names": list(names)} if names else {}
    label = label or {"dtype": "int64", "_type": "Value"}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}

"""What is stored: shards of rows, their keys and digests, the Parquet schema of images, and receipts of work.

A shard is the unit of work, of storage and of resumption. Its digest covers everything that decides its
content: the stage with its version and identity fields, the shard's own parameters, the digests of its
inputs, and weight revisions.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core import checked
from diffadapt.core.identity import digest
from diffadapt.core.redact import redact

_SUM, _ZEROS = b"sha256", b"0" * 64
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_SCHEMA = pa.schema(
    [("key", pa.string()), ("label", pa.int64()), ("image", IMAGE_TYPE), ("seed", pa.int64())]
)
PROMPT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),
        ("index", pa.int64()),
        ("category", pa.string()),
        ("prompt", pa.string()),
        ("source", pa.string()),
    ]
)
FEATURES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),
        ("test", pa.list_(pa.float32())),
        ("weak", pa.list_(pa.float32())),
        ("strong", pa.list_(pa.float32())),
    ]
)
"""``weak`` and ``strong`` are the views' features one after another."""
OBJECT_TYPE = pa.struct([("category", pa.int64()), ("bbox", pa.list_(pa.float32())), ("crowd", pa.bool_())])
"""One object of a detection set: class number, (x1, y1, x2, y2) in pixels of the stored image, and COCO's
iscrowd."""
DETECTION_TYPE = pa.struct(
    [("category", pa.int64()), ("bbox", pa.list_(pa.float32())), ("score", pa.float32())]
)
SCENE_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("label", pa.int64()), ("image", IMAGE_TYPE), ("seed", pa.int64()),
        ("annotation", IMAGE_TYPE), ("colours", IMAGE_TYPE), ("objects", pa.list_(OBJECT_TYPE)),
    ]
)  # fmt: skip
"""Scenes: ``label`` is always null. ``annotation``: 8-bit grey PNG of class numbers 0..K-1 with IGNORED
elsewhere, null where there is no truth; ``colours``: the data set's own colour map where it has one
(Cityscapes' raw map, void colours included), else null; ``objects``: null where no boxes are known."""
IGNORED = 255
"""The class number of pixels that count nowhere (void, unlabelled), in annotations."""
SEGMENTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),
        ("prediction", IMAGE_TYPE),
        ("confusion", pa.list_(pa.int64())),
        ("confidence", pa.float32()),
    ]
)
"""``prediction``: 8-bit grey PNG of class numbers (K: the void channel won); ``confusion``: (K+1) x (K+1)
pixel counts, row-major, rows the truth, the last row and column void; null without truth; ``confidence``: the
mean over pixels of the largest softmax probability."""
BOXES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),
        ("objects", pa.list_(OBJECT_TYPE)),
        ("boxes", pa.list_(DETECTION_TYPE)),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)
"""Detections ``boxes`` beside the true ``objects`` (null: unknown), both in pixels of the stored image."""
LOGITS_SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int64()), ("logits", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Input:
    """One input of a shard: which node made it and the digest of the shard or of the fitted artefact."""

    node: str
    digest: str


@dataclass(frozen=True)
class Shard:
    """One unit of work. ``key`` is readable and unique in its node; ``params`` say what to make; ``items``
    how many rows."""

    key: str
    params: Mapping[str, Any]
    inputs: tuple[Input, ...] = ()
    items: int = 0


@dataclass(frozen=True)
class Failure:
    """A quarantined item: its key and one sentence on why."""

    key: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", redact(self.reason))  # it goes to shards, lists and reports


@dataclass
class Rows:
    """The content of a shard: a table, the items that could not be made, and what its maker has to say
    aloud."""

    table: pa.Table
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> list:
        return self.table.column(name).to_pylist()


@dataclass(frozen=True)
class Receipt:
    """What became of one shard: ``made``, ``hit`` (already in the store) or ``failed`` (with the reason)."""

    node: str
    key: str
    digest: str
    status: str
    items: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    worker: str = ""
    error: str = ""
    batch_size: int = 0
    warnings: tuple[str, ...] = ()
    device: str = ""
    """What it was made on: 'cpu' or the accelerator's name."""
    devices: int = 1
    """How many of them worked on it side by side."""
    resumed: bool = False
    """A fit that went on from a checkpoint: ``seconds`` are those of its last part."""


def family_digest(kind: str, version: int, identity: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Digest of all that the shards of one node have in common."""
    return digest({"kind": kind, "version": version, "identity": identity, "inputs": sorted(inputs)})


def shard_digest(family: str, shard: Shard) -> str:
    """Digest of one shard within its family; inputs count in their order, node names do not."""
    return digest({"family": family, "params": shard.params, "inputs": [i.digest for i in shard.inputs]})


def image_table(
    keys: Sequence[str],
    labels: Sequence[int | None],
    images: Sequence[bytes],
    seeds: Sequence[int],
    suffix: str = ".png",
) -> pa.Table:
    """Rows of encoded images in :data:`IMAGE_SCHEMA`; ``path`` is the key with the stored format's suffix."""
    structs = [{"bytes": b, "path": _stem(k) + suffix} for k, b in zip(keys, images, strict=True)]
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "image": pa.array(structs, IMAGE_TYPE),
            "seed": pa.array(seeds, pa.int64()),
        },
        schema=IMAGE_SCHEMA,
    )


def scene_table(
    keys: Sequence[str],
    images: Sequence[bytes],
    annotations: Sequence[bytes | None],
    seeds: Sequence[int] | None = None,
    *,
    colours: Sequence[bytes | None] | None = None,
    objects: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    suffix: str = ".png",
) -> pa.Table:
    """Rows of scenes in :data:`SCENE_SCHEMA`; ``annotations`` and ``colours`` are encoded images or None."""
    count = len(keys)

    def images_of(values: Sequence[bytes | None], end: str) -> pa.Array:
        return pa.array(
            [
                None if b is None else {"bytes": b, "path": _stem(k) + end}
                for k, b in zip(keys, values, strict=True)
            ],
            IMAGE_TYPE,
        )

    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "label": pa.nulls(count, pa.int64()),
            "image": images_of(images, suffix),
            "seed": pa.array(seeds if seeds is not None else [0] * count, pa.int64()),
            "annotation": images_of(annotations, ".png"),
            "colours": images_of(colours if colours is not None else [None] * count, ".png"),
            "objects": pa.array(objects if objects is not None else [None] * count, pa.list_(OBJECT_TYPE)),
        },
        schema=SCENE_SCHEMA,
    )


def _stem(key: str) -> str:
    head, dot, tail = key.rpartition(".")
    return head if dot and "/" not in tail and len(tail) <= 5 else key


def to_parquet(rows: Rows, provenance: Mapping[str, Any]) -> bytes:
    """Deterministic Parquet bytes with provenance and failures in the file's metadata.

    Image columns carry Hugging Face's feature metadata, so that ``datasets`` shows pictures. ``sha256`` in
    the metadata is the file's own digest, taken with zeros in its place.
    """
    table = rows.table
    about = {
        **provenance,
        "failures": [[f.key, f.reason] for f in rows.failures],
        **({"warnings": [redact(w) for w in rows.warnings]} if rows.warnings else {}),
        "rows": len(rows),
    }
    metadata = {b"diffadapt": checked.to_json(about), _SUM: _ZEROS}
    if "image" in table.schema.names:
        features = {field.name: _feature(field.type) for field in table.schema}
        metadata[b"huggingface"] = json.dumps({"info": {"features": features}}).encode()
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        buffer,
        compression="zstd",
        store_schema=True,
        write_page_checksum=True,
    )
    data = buffer.getvalue()
    at = data.rfind(_ZEROS)
    return b"".join((data[:at], _sum(data, _ZEROS), data[at + len(_ZEROS) :]))


def _sum(data: bytes, value: bytes) -> bytes:
    """The digest of a shard's bytes in whose metadata it stands as ``value``."""
    at, view = data.rfind(value), memoryview(data)
    total = hashlib.sha256(view[:at])
    total.update(_ZEROS)
    total.update(view[at + len(value) :])
    return total.hexdigest().encode()


def _feature(kind: pa.DataType) -> Any:
    """A column's type as Hugging Face's ``Features`` write it; encoded images are pictures."""
    if kind.equals(IMAGE_TYPE):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def from_parquet(data: bytes) -> Rows:
    """Rows and failures from :func:`to_parquet` bytes. Raises ValueError or pyarrow's errors when they are
    damaged; shards of earlier versions, whose metadata hold no digest, are checked page by page."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    meta, own = _about(file.metadata)
    if own is not None and own != _sum(data, own):
        raise ValueError("its content does not match its digest")
    table = file.read(use_threads=False)  # read_table would import pandas
    return Rows(
        table.replace_schema_metadata(None),
        [Failure(k, r) for k, r in meta.get("failures", [])],
        list(meta.get("warnings", [])),
    )


def _about(meta: pq.FileMetaData) -> tuple[dict[str, Any], bytes | None]:
    """What a shard says of itself, and its digest; None in shards of earlier versions. ValueError when that
    is damaged."""
    known = meta.metadata or {}
    about, own = checked.from_json(known.get(b"diffadapt", b"null")), known.get(_SUM)
    rows = about.get("rows")
    if (rows is None) != (own is None) or rows not in (None, meta.num_rows):
        raise ValueError("its metadata are not what was written")
    return about, own


class Header(NamedTuple):
    """What a shard's footer says of it."""

    items: int
    failures: list[Failure]
    warnings: list[str]


def read_header(data_file: Any) -> Header:
    """Row count, failures and warnings from a Parquet file's footer alone."""
    meta = pq.read_metadata(data_file)
    info, _ = _about(meta)
    return Header(
        meta.num_rows, [Failure(k, r) for k, r in info.get("failures", [])], list(info.get("warnings", []))
    )

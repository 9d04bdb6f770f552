"""Predictions as a table that other tools read: one row an image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.record import softmax

PREDICTIONS_SCHEMA = pa.schema(
    [("path", pa.string()), ("label", pa.int64()), ("class", pa.string()), ("confidence", pa.float64())]
)
"""``path`` relative to the target's folder; ``label`` the predicted class's number; ``confidence`` the
largest softmax probability."""


def image_path(key: str) -> str:
    """The image's path as its owner knows it: a key without its group, ``target/0/a/b.jpg`` ->
    ``a/b.jpg``."""
    return key.split("/", 2)[-1]


NONE_OF_THESE, NO_LABEL = "(none of these)", -1
"""The answer to an image that is rejected."""


def prediction_columns(
    predictions: Mapping[str, tuple[int | None, np.ndarray]], class_names: Sequence[str] = ()
) -> dict[str, list]:
    """The columns of :data:`PREDICTIONS_SCHEMA`, a row an image, sorted by path, of key -> (true label,
    unused; logits (K,))."""
    keys = sorted(predictions, key=image_path)
    p = softmax(np.stack([predictions[k][1] for k in keys])) if keys else np.zeros((0, 1))
    return {"path": [image_path(k) for k in keys], **_answers(p, class_names)}


def ensemble_columns(
    source: Mapping[str, tuple[int | None, np.ndarray]],
    projected: Mapping[str, tuple[int | None, np.ndarray]],
    class_names: Sequence[str] = (),
) -> dict[str, list]:
    """Columns, a row an image that both models predicted, sorted by path: ``path``; label, class and
    confidence of ``source_``, ``projected_`` and ``ensemble_``; and ``label`` and ``confidence``, the
    ensemble's."""
    keys = sorted(set(source) & set(projected))
    columns: dict[str, list] = {"path": [image_path(k) for k in keys]}
    parts = {}
    if keys:
        parts["source"] = softmax(np.stack([source[k][1] for k in keys]))
        parts["projected"] = softmax(np.stack([projected[k][1] for k in keys]))
        parts["ensemble"] = (parts["source"] + parts["projected"]) / 2
    for name in ("source", "projected", "ensemble"):
        found = _answers(parts.get(name, np.zeros((0, 1))), class_names)
        columns |= {f"{name}_{k}": values for k, values in found.items()}
    columns["label"], columns["confidence"] = columns["ensemble_label"], columns["ensemble_confidence"]
    return columns


def _answers(p: np.ndarray, class_names: Sequence[str]) -> dict[str, list]:
    """Probabilities (N, K) -> label, class (its name, or its number when there are no names), confidence."""
    label = p.argmax(axis=1).tolist()
    return {
        "label": label,
        "class": [class_names[i] if class_names else str(i) for i in label],
        "confidence": p.max(axis=1).tolist() if len(p) else [],
    }


def predictions_parquet(
    predictions: Mapping[str, tuple[int | None, np.ndarray]],
    class_names: Sequence[str] = (),
    energies: Mapping[str, float] | None = None,
    limit: float = float("inf"),
) -> bytes:
    """Parquet bytes in :data:`PREDICTIONS_SCHEMA`, sorted by path, of key -> (true label, unused; logits
    (K,)).

    ``class``: the predicted class's name, or its number when there are no names. With ``energies`` (key ->
    energy) also the columns ``energy`` and ``nearest``, the class that is predicted; images above ``limit``
    have the class "(none of these)" and the label -1.
    """
    columns, schema = prediction_columns(predictions, class_names), PREDICTIONS_SCHEMA
    if energies is not None:
        keys, label = sorted(predictions, key=image_path), columns["label"]
        values = [float(energies[k]) for k in keys]
        columns |= {"energy": values, "nearest": columns["class"]}
        columns["label"] = [NO_LABEL if e > limit else i for e, i in zip(values, label, strict=True)]
        columns["class"] = [
            NONE_OF_THESE if e > limit else c for e, c in zip(values, columns["nearest"], strict=True)
        ]
        schema = schema.append(pa.field("energy", pa.float64())).append(pa.field("nearest", pa.string()))
    return _parquet(pa.table(columns, schema=schema))


def ensemble_parquet(
    source: Mapping[str, tuple[int | None, np.ndarray]],
    projected: Mapping[str, tuple[int | None, np.ndarray]],
    class_names: Sequence[str] = (),
) -> bytes:
    """:func:`ensemble_columns` as Parquet bytes."""
    return _parquet(pa.table(ensemble_columns(source, projected, class_names)))


def failed_images(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Path -> reason of the images that a run's nodes (those of its manifest) set apart, sorted by path."""
    failed: dict[str, str] = {}
    for node in nodes.values():
        for key, reason in node["quarantined"]:
            failed.setdefault(image_path(key), reason)
    return dict(sorted(failed.items()))


def with_failures(data: bytes, failed: Mapping[str, str]) -> bytes:
    """A table of predictions as Parquet bytes with a row, of ``path`` and ``reason`` alone, for each image
    that could not be predicted (path -> reason), sorted by path; as it is where there is none."""
    if not failed:
        return data
    table = pq.read_table(pa.BufferReader(data))
    rows = [{**row, "reason": None} for row in table.to_pylist() if row["path"] not in failed]
    rows += [{"path": path, "reason": reason} for path, reason in failed.items()]
    schema = table.schema.append(pa.field("reason", pa.string()))
    return _parquet(pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), schema=schema))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()

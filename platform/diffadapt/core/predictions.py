"""Predictions as a table that other tools read: one row an image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

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


def predictions_parquet(
    predictions: Mapping[str, tuple[int | None, np.ndarray]], class_names: Sequence[str] = ()
) -> bytes:
    """Parquet bytes in :data:`PREDICTIONS_SCHEMA`, sorted by path, of key -> (true label, unused; logits
    (K,)).

    ``class``: the predicted class's name, or its number when there are no names.
    """
    keys = sorted(predictions, key=image_path)
    p = softmax(np.stack([predictions[k][1] for k in keys])) if keys else np.zeros((0, 1))
    label = p.argmax(axis=1).tolist()
    columns = {
        "path": [image_path(k) for k in keys],
        "label": label,
        "class": [class_names[i] if class_names else str(i) for i in label],
        "confidence": p.max(axis=1).tolist(),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PREDICTIONS_SCHEMA), buffer)
    return buffer.getvalue()

"""Scores: views over stored logits, one long table per run. Knows numpy and pyarrow only."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.artifact import Rows
from diffadapt.core.pipeline import MethodRow

SCORES_SCHEMA = pa.schema(
    [
        ("run", pa.string()), ("method", pa.string()), ("control", pa.bool_()), ("group", pa.string()),
        ("corruption", pa.string()), ("severity", pa.int64()), ("metric", pa.string()), ("value", pa.float64()),
        ("images", pa.int64()), ("of_images", pa.int64()), ("seed", pa.int64()), ("selection", pa.string()), ("note", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One number. ``value`` in percent for top1; ``images`` counted, of ``of_images`` that the target has."""

    run: str
    method: str
    control: bool
    group: str
    corruption: str
    severity: int
    metric: str
    value: float
    images: int
    of_images: int
    seed: int
    selection: str = "last"
    note: str = ""


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., K) logits -> probabilities over the last axis, float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def predictions_by_key(parts: Sequence[Rows]) -> dict[str, tuple[int | None, np.ndarray]]:
    """key -> (label, logits) over the shards of one prediction node."""
    out: dict[str, tuple[int | None, np.ndarray]] = {}
    for rows in parts:
        for key, label, logits in zip(rows.column("key"), rows.column("label"), rows.column("logits"), strict=True):
            out[key] = (label, np.asarray(logits, np.float32))
    return out


def score_rows(
    run: str, seed: int, rows: Sequence[MethodRow], predictions: Mapping[str, Mapping[str, tuple[int | None, np.ndarray]]], totals: Mapping[str, int]
) -> list[Score]:
    """Top-1 of each method row in every group (corruption/severity), on the keys that all its members predicted.

    A method's prediction is the argmax of the sum of its members' softmax probabilities (SDA equation 5).
    ``totals``: images of each group. Unlabelled targets give no scores.
    """
    out: list[Score] = []
    for row in rows:
        members = [predictions[m] for m in row.members]
        others = [*members[1:], *([predictions[row.images_of]] if row.images_of else [])]
        keys = [k for k in members[0] if all(k in m for m in others)]
        by_group: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            if members[0][key][0] is not None:
                by_group["/".join(key.split("/", 2)[:2])].append(key)
        for group, names in sorted(by_group.items()):
            total = sum(softmax(np.stack([m[k][1] for k in names])) for m in members)
            labels = np.array([members[0][k][0] for k in names])
            correct = float((total.argmax(axis=1) == labels).mean() * 100)
            corruption, _, severity = group.partition("/")
            out.append(Score(run, row.name, row.control, group, corruption, int(severity or 0), "top1", correct, len(names), totals.get(group, len(names)), seed, note=row.note))
    return out


def to_bytes(scores: Sequence[Score]) -> bytes:
    """Scores as Parquet bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(s) for s in scores], schema=SCORES_SCHEMA), buffer)
    return buffer.getvalue()


def from_bytes(data: bytes) -> list[Score]:
    """Scores from :func:`to_bytes`."""
    return [Score(**row) for row in pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()]


def summarise(scores: Sequence[Score], *, skip: Sequence[str] = ("clean",)) -> list[dict]:
    """A row a method: mean over corruption groups (each group counts once), images used and available, note; input order."""
    order: dict[str, list[Score]] = defaultdict(list)
    for s in scores:
        if s.metric == "top1" and s.corruption not in skip:
            order[s.method].append(s)
    rows = []
    for method, group in order.items():
        rows.append(
            {
                "method": method,
                "control": group[0].control,
                "mean": float(np.mean([s.value for s in group])),
                "groups": len(group),
                "images": sum(s.images for s in group),
                "of_images": sum(s.of_images for s in group),
                "by_corruption": {s.group: s.value for s in group},
                "note": group[0].note,
            }
        )
    return rows

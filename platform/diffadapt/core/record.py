"""Scores: one long table per run, and what they are views over. Knows numpy and pyarrow only."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.artifact import Rows
from diffadapt.core.pipeline import MethodRow, Role

SCORES_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("control", pa.bool_()),
        ("group", pa.string()),
        ("corruption", pa.string()),
        ("severity", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("images", pa.int64()),
        ("of_images", pa.int64()),
        ("seed", pa.int64()),
        ("selection", pa.string()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class Score:
    """One number. ``value`` in percent for top1 and class_mean; ``images`` counted, of ``of_images`` that the
    target has."""

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
    role: Role = Role()
    """The row's role, which the run's manifest keeps."""

    @classmethod
    def of(
        cls,
        run: str,
        seed: int,
        row: MethodRow,
        group: str,
        metric: str,
        value: float,
        images: int,
        total: int,
    ) -> Score:
        """A score of ``row`` in ``group`` (corruption/severity, or a name alone); ``seed``: the recipe's."""
        corruption, _, severity = group.partition("/")
        return cls(
            run=run,
            method=row.name,
            control=row.control,
            group=group,
            corruption=corruption,
            severity=int(severity) if severity.isdigit() else 0,
            metric=metric,
            value=value,
            images=images,
            of_images=total,
            seed=seed if row.seed is None else row.seed,
            selection=row.selection,
            note=row.note,
            role=row.role,
        )


def group_of(row: MethodRow, key: str) -> str:
    """The group that an image counts in: the row's own, else the corruption/severity of its key."""
    return row.group or "/".join(key.split("/", 2)[:2])


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., K) logits -> probabilities over the last axis, float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def ensemble_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """Logits (N, K), float64, of an ensemble of members' logits (N, K): their softmax is the mean of the
    members' probabilities, their height (log-sum-exp) the mean of the members'. One member gives its own."""
    if len(members) == 1:
        return np.asarray(members[0], np.float64)
    mean = np.mean([softmax(z) for z in members], axis=0)
    return np.log(np.maximum(mean, 1e-300)) + np.mean([_height(z) for z in members], axis=0)


def _height(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits -> log-sum-exp (N, 1), float64."""
    z = np.asarray(logits, np.float64)
    peak = z.max(axis=-1, keepdims=True)
    return peak + np.log(np.exp(z - peak).sum(axis=-1, keepdims=True))


def logits_of_rows(rows: Rows) -> np.ndarray:
    """The logits of a shard as float32 (N, K), without a Python number in between; (N,) of arrays where rows
    differ in length."""
    column = rows.table.column("logits").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    count = len(column)
    if not count or (flat.size % count == 0 and (np.diff(ends, prepend=0) == flat.size // count).all()):
        return flat.reshape(count, -1) if flat.size else np.zeros((count, 0), np.float32)
    out = np.empty(count, object)
    out[:] = np.split(flat, ends[:-1])
    return out


def predictions_by_key(parts: Iterable[Rows]) -> dict[str, tuple[int | None, np.ndarray]]:
    """key -> (label, logits) over the shards of one prediction node."""
    out: dict[str, tuple[int | None, np.ndarray]] = {}
    for rows in parts:
        pairs = zip(rows.column("label"), logits_of_rows(rows), strict=True)
        out.update(zip(rows.column("key"), pairs, strict=True))
    return out


def to_bytes(scores: Sequence[Score]) -> bytes:
    """Scores as Parquet bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(s) for s in scores], schema=SCORES_SCHEMA), buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, rows: Iterable[Mapping[str, Any]] = ()) -> list[Score]:
    """Scores from :func:`to_bytes`, with the roles that a manifest's ``rows`` state."""
    roles = {row["name"]: Role(**row["role"]) for row in rows if row.get("role")}
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    return [Score(**row, role=roles.get(row["method"], Role())) for row in table.to_pylist()]

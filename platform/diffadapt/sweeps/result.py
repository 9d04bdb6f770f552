"""What became of a trial, and the table of a sweep (sweep.parquet)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.foreign import parse
from diffadapt.core.redact import scrub

Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """One trial. ``objective`` higher is better, None where it failed; ``accuracy`` in percent, None without
    labels.

    ``scores``: [method, seed, group, metric, percent] of every row of the trial's table. ``device_hours``:
    hours of all shards and fits that the result stands on, each counted as measured when it was made, whoever
    made it; ``device``: what they were made on. ``made`` and ``found``: shards and fits made by this trial,
    and found in the store. ``epochs``: the objective after each epoch, where a scheduler watched.
    ``adjusted``: fields that were changed because memory ran out. ``selection``: 'oracle' where target labels
    chose an epoch. ``diversity``: sample size -> Vendi score of a class of synthetic images, where the trial
    measured it.
    """

    id: str
    number: int
    recipe: str
    values: Mapping[str, Any]
    changes: Mapping[str, Any]
    status: Status
    objective_name: str
    objective: float | None = None
    accuracy: float | None = None
    method: str = ""
    scores: Sequence[Sequence[Any]] = ()
    seconds: float = 0.0
    device_hours: float | None = None
    device: str = ""
    made: int = 0
    found: int = 0
    epochs: Sequence[float] = ()
    adjusted: Mapping[str, Any] = field(default_factory=dict)
    selection: str = "last"
    error: str = ""
    diversity: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


def values_text(values: Mapping[str, Any]) -> str:
    """Axis values in one line: 'guidance 1.5  fraction 0.7'."""
    return "  ".join(
        f"{name.rpartition('.')[2]} {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in values.items()
    )


def from_json(data: bytes) -> TrialResult:
    """A result from :meth:`TrialResult.to_json`; ValueError, KeyError or TypeError when it is damaged."""
    return TrialResult(**parse(data))


FIELDS = (
    "id",
    "number",
    "recipe",
    "status",
    "objective_name",
    "objective",
    "accuracy",
    "method",
    "seconds",
    "device_hours",
    "device",
    "made",
    "found",
    "selection",
    "error",
)
_TYPES = {
    "number": pa.int64(),
    "objective": pa.float64(),
    "accuracy": pa.float64(),
    "seconds": pa.float64(),
    "device_hours": pa.float64(),
    "made": pa.int64(),
    "found": pa.int64(),
}


def table(results: Sequence[TrialResult], axes: Sequence[str]) -> pa.Table:
    """One row a trial in the order of their numbers: FIELDS, a column ``value.<axis>`` each (of the values'
    own type, text where types differ), and scores, epochs, adjusted and diversity as JSON. Credentials are
    masked."""
    rows = sorted(results, key=lambda r: (r.number, r.id))
    columns: dict[str, pa.Array] = {
        name: pa.array([scrub(getattr(r, name)) for r in rows], _TYPES.get(name, pa.string()))
        for name in FIELDS
    }
    for axis in axes:
        columns[f"value.{axis}"] = _column([scrub(r.values.get(axis)) for r in rows])
    for name in ("scores", "epochs", "adjusted", "diversity"):
        columns[name] = pa.array([json.dumps(scrub(getattr(r, name))) for r in rows], pa.string())
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float} and kinds:
        return (
            pa.array([None if v is None else float(v) for v in values], pa.float64())
            if float in kinds
            else pa.array(values, pa.int64())
        )
    if kinds in ({bool}, {str}):
        return pa.array(values)
    return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def to_parquet(results: Sequence[TrialResult], axes: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table(results, axes), buffer)
    return buffer.getvalue()

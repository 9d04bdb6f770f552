"""The curves of a run's trainings, from the files that TensorBoard reads."""

from __future__ import annotations

import math
import posixpath
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from diffadapt.core.runs import Run
from diffadapt.report.charts import svg, tag
from diffadapt.report.frame import Frame
from diffadapt.run.logs import TENSORBOARD

POINTS = 400
"""Points that a curve is drawn with at most."""
LARGEST = 64 << 20
"""Bytes of a file that is read."""
Series = list[tuple[int, float]]


def fits(run: Run) -> list[str]:
    """Names of the trainings that have curves."""
    return sorted(n for n in run.place.list(posixpath.join(run.name, TENSORBOARD)) if not n.startswith("."))


def scalars(run: Run, fit: str) -> dict[str, Series]:
    """Name -> (step, value) in the order of the steps; a step that was written twice has its last value."""
    folder = posixpath.join(run.name, TENSORBOARD, fit)
    found: dict[str, dict[int, float]] = {}
    for file in sorted(run.place.list(folder)):
        if "tfevents" in file and not file.endswith(".samples"):
            for name, step, value in _events(run.place.read_bytes(posixpath.join(folder, file))[:LARGEST]):
                found.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def curve(name: str, series: Sequence[tuple[int, float]], narrow: bool = False) -> Any:
    """A curve as SVG; empty where there is no number to draw."""
    points = [(s, v) for s, v in series if math.isfinite(v)]
    if not points:
        return ""
    if len(points) > POINTS:
        points = [points[i * (len(points) - 1) // (POINTS - 1)] for i in range(POINTS)]
    frame = Frame([float(s) for s, _ in points], [v for _, v in points], False, narrow)
    parts = frame.axes("step", name)
    path = "L".join(f"{frame.x(float(s))} {frame.y(v)}" for s, v in points)
    parts.append(tag("path", None, f"{name}: {points[-1][1]:.4g} at step {points[-1][0]}", d=f"M{path}",
                     class_="curve"))  # fmt: skip
    if len(points) == 1:
        parts.append(tag("circle", cx=frame.x(float(points[0][0])), cy=frame.y(points[0][1]), r=3.0,
                         class_="bar-main"))  # fmt: skip
    return svg(parts, frame.width, frame.height, f"{name} by step")


def _events(data: bytes) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of the whole records of an event file; the last one may still be written."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            return
        event = Event()
        try:
            event.ParseFromString(data[at + 12 : at + 12 + length])
        except Exception:  # protobuf's DecodeError, of whichever implementation it has
            return
        at += 16 + length
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield value.tag, int(event.step), float(value.simple_value)

"""A chart of named points: a score against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from diffadapt.report.charts import cut, dot, label, line, svg, tag
from diffadapt.report.frame import Frame

PITCH = 14
"""Pixels between the names of points that lie together."""


class Spot(NamedTuple):
    """``x``: the cost, above 0; ``y``: the score; ``error``: its spread; ``lead``: the run's own result."""

    name: str
    x: float
    y: float
    error: float | None = None
    lead: bool = False


def scatter(
    spots: Sequence[Spot],
    reference: float | None,
    metric: str,
    unit: str = "forward passes an image",
    *,
    narrow: bool = False,
) -> Markup:
    """The points with their names beside them and their spread as a whisker; costs on a logarithmic scale, a
    dashed line at ``reference``. Empty without points. 720 or 340 wide."""
    if not spots:
        return Markup("")
    ys = [v for s in spots for v in (s.y - (s.error or 0), s.y + (s.error or 0))]
    log = max(s.x for s in spots) > 3 * min(s.x for s in spots)
    frame = Frame([s.x for s in spots], ys + ([] if reference is None else [reference]), log, narrow)
    parts = frame.axes(f"{unit}{', log scale' if log else ''}", metric)
    if reference is not None:
        y = frame.y(reference)
        parts.append(line(frame.left, frame.right, y, y, "reference"))
        parts.append(label("source, no projection", frame.right, y - 5, "soft", anchor="end"))
    for s, place in zip(spots, _places(spots, frame), strict=True):
        x, y = frame.x(s.x), frame.y(s.y)
        if s.error:
            high, low = frame.y(s.y + s.error), frame.y(s.y - s.error)
            parts.append(
                tag("path", d=f"M{x} {low}V{high}M{x - 3} {low}h6M{x - 3} {high}h6", class_="whisker")
            )
        kind = "bar-main" if s.lead else "bar-control"
        parts.append(dot(x, y, 5.5 if s.lead else 4.5, kind, f"{s.name}: {s.y:.2f} at {s.x:g} {unit}"))
        left = x > (frame.left + frame.right) / 2
        text = cut(s.name, 24 if narrow else 46)
        parts.append(
            label(text, x - 9 if left else x + 9, place, "value", anchor="end" if left else "", title=s.name)
        )
    return svg(parts, frame.width, frame.height, f"{metric} against {unit}")


def _places(spots: Sequence[Spot], frame: Frame) -> list[float]:
    """The height of each name: beside its point, but PITCH below the name above it on the same side."""
    out, last = [0.0] * len(spots), {False: -1e9, True: -1e9}
    for i in sorted(range(len(spots)), key=lambda i: frame.y(spots[i].y)):
        side = frame.x(spots[i].x) > (frame.left + frame.right) / 2
        last[side] = out[i] = max(frame.y(spots[i].y) + 4, last[side] + PITCH)
    return out

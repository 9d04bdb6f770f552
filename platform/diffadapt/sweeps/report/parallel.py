"""Parallel coordinates of a sweep: an axis a swept field, then the objective and accuracy; a line a setting,
coloured by the objective."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffadapt.report.charts import cut, label, line, svg, tag
from diffadapt.report.frame import Scale
from diffadapt.sweeps.recommend import Setting
from diffadapt.sweeps.report.view import View
from diffadapt.sweeps.result import TrialResult

SHADES = 5
"""Colours of the style sheet, p0 (worst) to p4 (best)."""
SPREAD = 0.34
"""Lines through one value are spread over so much of the way to its neighbours, so that each can be followed.
"""
LINES = 250
"""Beyond so many settings the worst are left out."""


@dataclass(frozen=True)
class _Column:
    """One axis: ``places`` (0 to 1) a line, None where the line does not meet it; ``ticks``: (place,
    text)."""

    title: str
    places: list[float | None]
    ticks: list[tuple[float, str]]
    last: bool


@dataclass(frozen=True)
class Lines:
    """The lines of the chart: trials that a scheduler stopped, over them finished settings, the recommended
    one last."""

    columns: list[_Column]
    shades: list[int]
    titles: list[str]
    left_out: int


def parallel(view: View) -> Lines | None:
    """What is drawn; None with fewer than two settings or nothing that varies."""
    settings = list(reversed(view.settings))
    left_out = max(0, len(settings) - LINES)
    settings = settings[left_out:]
    stopped = [r for r in view.results if r.status == "stopped"][:LINES]
    if len(settings) < 2 or not view.axes:
        return None
    firsts: list[TrialResult] = stopped + [s.first for s in settings]
    columns = [_axis_column(view, i, firsts) for i in range(len(view.axes))]
    for metric in view.metrics:
        values = [None] * len(stopped) + [_finite(view.summary(s.trials, metric)[0]) for s in settings]
        columns.append(_metric_column(view.title(metric), values))
    return Lines(
        columns,
        [-1] * len(stopped) + _shades(settings),
        [_title(view, r, None) for r in stopped] + [_title(view, s.first, s) for s in settings],
        left_out,
    )


def parallel_chart(lines: Lines, *, narrow: bool = False) -> Markup:
    """Upright axes side by side, 1100 x 432; narrow: lying axes one below the other, 340 wide."""
    n = len(lines.columns)
    if narrow:
        width, height = 340, 8 + 82 * n
        across = [40 + 82 * i for i in range(n)]
        start, end = 16, width - 16
    else:
        width, height = 1100, 432
        across = [60 + (width - 120) * i / max(n - 1, 1) for i in range(n)]
        start, end = 404, 52
    parts: list[Markup] = []
    for k, shade in enumerate(lines.shades):
        best = k == len(lines.shades) - 1
        ends = [
            (across[i], start + (end - start) * place)
            for i, c in enumerate(lines.columns)
            if (place := c.places[k]) is not None
        ]
        if len(ends) > 1:
            kind = "line best-line" if best else f"line p{shade}" if shade >= 0 else "line stopped"
            parts.append(tag("path", None, lines.titles[k], d=_path(ends, narrow), class_=kind))
    for i, column in enumerate(lines.columns):
        parts += _axis(column, across[i], start, end, width, narrow, i, n)
    return svg(parts, width, height, "Settings as lines over the swept fields, coloured by the objective")


def _axis(
    column: _Column, at: float, start: float, end: float, width: int, narrow: bool, i: int, n: int
) -> list[Markup]:
    parts: list[Markup] = []
    if narrow:
        parts.append(label(cut(column.title, 44), 0, at - 22, "heading", title=column.title))
        parts.append(line(start - 8, end + 8, at, at, "rail"))
    else:
        anchor = "start" if i == 0 else "end" if i == n - 1 else "middle"
        x = 2 if i == 0 else width - 2 if i == n - 1 else at
        parts.append(
            label(
                cut(column.title, max(10, int(150 / n) * 2)),
                x,
                22 if i % 2 == 0 or n < 8 else 38,
                "heading",
                anchor=anchor,
                title=column.title,
            )
        )
        parts.append(line(at, at, end - 8, start + 8, "rail"))
    shown = -math.inf
    for place, text in column.ticks:
        p = start + (end - start) * place
        short = cut(text, 14 if narrow else 16)
        if narrow:
            half = 3.2 * len(short)
            middle = min(max(p, half), width - half)
            if middle - half > shown:
                parts.append(label(short, middle, at + 16, "tick", anchor="middle", title=text))
                shown = middle + half + 3
            parts.append(line(p, p, at - 4, at + 4, "axis"))
        else:
            right = i < n - 1
            parts.append(
                label(
                    short,
                    at + (7 if right else -7),
                    p + 4,
                    "tick",
                    anchor="start" if right else "end",
                    title=text,
                )
            )
            parts.append(line(at - 4, at + 4, p, p, "axis"))
    return parts


def _path(ends: Sequence[tuple[float, float]], narrow: bool) -> str:
    """Smooth from axis to axis, so that lines that meet at a value can be told apart."""
    first = ends[0]
    text = f"M{_xy(first, narrow)}"
    for a, b in zip(ends, ends[1:], strict=False):
        bend = (b[0] - a[0]) * 0.4
        text += f"C{_xy((a[0] + bend, a[1]), narrow)} {_xy((b[0] - bend, b[1]), narrow)} {_xy(b, narrow)}"
    return text


def _xy(point: tuple[float, float], narrow: bool) -> str:
    a, b = round(point[0], 1), round(point[1], 1)
    return f"{b:g} {a:g}" if narrow else f"{a:g} {b:g}"


def _axis_column(view: View, index: int, firsts: Sequence[TrialResult]) -> _Column:
    axis = view.axes[index]
    places: list[float | None] = [
        axis.place(r.values[axis.name]) if axis.name in r.values else None for r in firsts
    ]
    if not axis.discrete:
        numbers = [axis.number(v) for v in (axis.values[0], axis.values[-1])]
        low, high = (math.exp(n) if axis.log else n for n in numbers)
        ticks = Scale([low, high], 0, 1, axis.log).ticks
        return _Column(
            axis.label, places, [(axis.place(t), f"{t:.4g}") for t in ticks if low <= t <= high], False
        )

    def inset(place: float) -> float:
        return 0.06 + 0.88 * place

    gap = min(SPREAD / max(len(axis.values) - 1, 1), 0.11)
    members: dict[float, list[int]] = defaultdict(list)
    for k, p in enumerate(places):
        if p is not None:
            members[p].append(k)
    for p, ks in members.items():
        for j, k in enumerate(ks):
            away = gap * ((j + 0.5) / len(ks) - 0.5) if len(ks) > 1 else 0.0
            places[k] = inset(p) + away
    return _Column(
        axis.label, places, [(inset(axis.place(v)), axis.brief(v, 16)) for v in axis.values], False
    )


def _metric_column(title: str, values: Sequence[float | None]) -> _Column:
    known = [v for v in values if v is not None]
    if not known:
        return _Column(title, list(values), [], True)
    scale = Scale(known, 0.0, 1.0)
    return _Column(
        title,
        [None if v is None else scale(v) for v in values],
        [(scale(t), scale.text(t)) for t in scale.ticks],
        True,
    )


def _shades(settings: Sequence[Setting]) -> list[int]:
    low, high = min(s.mean for s in settings), max(s.mean for s in settings)
    return [
        min(SHADES - 1, int(SHADES * (s.mean - low) / (high - low))) if high > low else SHADES - 1
        for s in settings
    ]


def _title(view: View, result: TrialResult, s: Setting | None) -> str:
    text = view.setting_text(result)
    return f"{text}: stopped early" if s is None else f"{text}: {view.number('objective', s.mean, s.spread)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

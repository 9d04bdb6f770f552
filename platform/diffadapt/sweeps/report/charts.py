"""Charts of a sweep as inline SVG: curves of one factor and clouds of settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from diffadapt.core.units import hours_text
from diffadapt.report.charts import cut, dot, label, line, svg, tag
from diffadapt.report.frame import Frame, Scale, y_axis
from diffadapt.sweeps.report.axis import Axis
from diffadapt.sweeps.report.compare import Agreement, Spot
from diffadapt.sweeps.report.curves import Curve, Point
from diffadapt.sweeps.report.view import View

NAMED = 120
"""Up to so many dots say what they are."""
LABELS = 9
"""Numbers on the front that are written beside their points."""


def curve_chart(view: View, curve: Curve) -> Markup:
    """One panel, 380 wide: single trials as faint dots, the mean with its deviation, the others as
    recommended in a second line, the point of diminishing returns as an upright dashed line."""
    width, height, left, right, top, bottom = 380, 232, 52, 14, 12, 184
    axis, ends = (
        curve.axis,
        [p.mean + s * (p.spread or 0) for p in (*curve.points, *curve.fixed) for s in (-1, 1)],
    )
    y = Scale([*ends, *(d[1] for d in curve.dots)], bottom, top, ticks=6)
    place = _places(axis, curve, left + 10, width - right - 10)
    parts = y_axis(y, left, width - right)
    shown = 0.0
    for value in [p.value for p in curve.points] if axis.discrete else _range_ticks(axis, place):
        x = place(axis.number(value))
        whole = axis.text(value) if axis.discrete else f"{value:.4g}"
        length = 14 if len(curve.points) < 5 else 9
        text = axis.brief(value, length) if axis.discrete else whole
        half = 3.1 * len(text)
        if x - half > shown:
            parts.append(label(text, min(x, width - half), bottom + 17, "soft", anchor="middle", title=whole))
            shown = min(x, width - half) + half + 2
        parts.append(line(x, x, bottom, bottom + 4, "axis"))
    parts.append(line(left, width - right, bottom, bottom, "axis"))
    parts.append(
        label(
            cut(axis.name + (" (log scale)" if axis.log else ""), 52),
            (left + width - right) / 2,
            height - 10,
            anchor="middle",
            title=axis.name,
        )
    )
    if curve.elbow is not None:
        x = place(axis.number(curve.elbow))
        parts.append(tag("line", None, curve.remark, x1=x, x2=x, y1=top - 6, y2=bottom, class_="elbow"))
    for n, v, r in curve.dots:
        tooltip = (
            f"{view.setting_text(r)}: {view.number(curve.metric, v)}" if len(curve.dots) <= NAMED else None
        )
        parts.append(dot(place(n), y(v), 2.2, "dot", tooltip))
    parts += _line(view, curve, curve.fixed, place, y, "fixed") + _line(
        view, curve, curve.points, place, y, "mean"
    )
    return svg(parts, width, height, f"{view.title(curve.metric)} by {axis.name}")


def cloud_chart(view: View, spots: Sequence[Spot], *, narrow: bool = False) -> Markup:
    """Quality against hours; the front is joined by steps and numbered."""
    metric = "accuracy" if view.labelled else "objective"
    xs = [s.x for s in spots]
    log = min(xs, default=0) > 0 and max(xs) / min(xs) >= 8
    front = sorted((s for s in spots if s.mark), key=lambda s: s.mark)
    frame = Frame(xs, [s.y for s in spots], log, narrow)
    parts = frame.axes(f"{view.hours} a trial{', log scale' if log else ''}", view.title(metric))
    path = ""
    for i, s in enumerate(front):
        path += f"M{frame.x(s.x)} {frame.y(s.y)}" if not i else f"H{frame.x(s.x)}V{frame.y(s.y)}"
    if front:
        parts.append(tag("path", d=path + f"H{frame.right}", class_="front"))
    for s in sorted(spots, key=lambda s: s.mark):
        tooltip = (
            f"{view.setting_text(s.setting.first)}: {view.number(metric, s.y)}, {hours_text(s.x)}"
            f" {view.hours}"
        )
        kind = "chosen" if s.setting is view.best else "on-front" if s.mark else "off-front"
        parts.append(
            dot(frame.x(s.x), frame.y(s.y), 5.5 if s.mark or kind == "chosen" else 3.5, kind, tooltip)
        )
    for s in (
        front[:LABELS]
        if len(front) <= LABELS
        else [front[round(i * (len(front) - 1) / (LABELS - 1))] for i in range(LABELS)]
    ):
        parts.append(label(str(s.mark), frame.x(s.x) - 8, frame.y(s.y) - 7, "value", anchor="end"))
    return svg(
        parts, frame.width, frame.height, f"{view.title(metric)} against {view.hours}, a point a setting"
    )


def agreement_chart(view: View, found: Agreement, *, narrow: bool = False) -> Markup:
    """The objective (across) against accuracy (up), a point a setting; the recommended one and the best by
    labels stand out."""
    frame = Frame([s.x for s in found.spots], [s.y for s in found.spots], False, narrow)
    parts = frame.axes(f"{view.objective} (label-free)", "accuracy (%)")
    top = max(s.y for s in found.spots)
    for s in sorted(found.spots, key=lambda s: (s.setting is view.best, s.y)):
        kind = "chosen" if s.setting is view.best else "by-labels" if s.y == top else "off-front"
        tooltip = f"{view.setting_text(s.setting.first)}: {view.objective} {s.x:.4f}, accuracy {s.y:.2f}"
        parts.append(dot(frame.x(s.x), frame.y(s.y), 6 if kind != "off-front" else 3.5, kind, tooltip))
    return svg(parts, frame.width, frame.height, f"Accuracy against {view.objective}, a point a setting")


def _line(
    view: View, curve: Curve, points: Sequence[Point], place: Scale, y: Scale, kind: str
) -> list[Markup]:
    if not points:
        return []
    dots = [(place(p.x), y(p.mean), p) for p in points]
    parts = []
    if len(dots) > 1 and curve.axis.numeric:
        parts.append(tag("path", d="M" + "L".join(f"{a} {b}" for a, b, _ in dots), class_=f"curve {kind}"))
    for a, b, p in dots:
        shift = 0 if kind == "mean" else 4
        if p.spread:
            low, high = y(p.mean - p.spread), y(p.mean + p.spread)
            parts.append(
                tag(
                    "path",
                    d=f"M{a + shift} {low}V{high}M{a + shift - 3} {low}h6M{a + shift - 3} {high}h6",
                    class_=f"error {kind}",
                )
            )
        over = f", s.d. over {p.seeds} seeds" if p.spread is not None else ""
        where = "others as recommended" if kind == "fixed" else f"{p.trials} trials"
        tooltip = (
            f"{curve.axis.name} {curve.axis.text(p.value)}:"
            f" {view.number(curve.metric, p.mean, p.spread)}{over}; {where}"
        )
        parts.append(
            dot(
                a + (shift if not curve.axis.numeric else 0),
                b,
                4 if kind == "mean" else 3,
                f"point {kind}",
                tooltip,
            )
        )
    return parts


def _places(axis: Axis, curve: Curve, start: float, end: float) -> Scale:
    """Numbers to scale (Axis.number is their logarithm where the scale is one), other values evenly
    spaced."""
    return Scale([p.x for p in (*curve.points, *curve.fixed)] + [d[0] for d in curve.dots], start, end)


def _range_ticks(axis: Axis, place: Scale) -> list[float]:
    if not axis.log:
        return place.ticks
    low, high = math.exp(place.low), math.exp(place.high)
    return Scale([low, high], 0, 1, log=True).ticks

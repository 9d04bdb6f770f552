"""Settings of a sweep against each other: the front of quality against hours, heat maps, and how well the
objective chose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from diffadapt.sweeps.recommend import Setting, ranks
from diffadapt.sweeps.report.axis import Axis, same
from diffadapt.sweeps.report.view import View
from diffadapt.sweeps.result import TrialResult

PAIRS = 6
"""Heat maps of two axes, those that matter most first."""
ROWS = 30
"""Rows of the heat map of benchmarks."""
LEAST = 3
"""Settings from which a rank correlation is told."""


@dataclass(frozen=True)
class Spot:
    """A setting as a point: ``x`` hours or the objective, ``y`` the metric; ``mark``: its number on the
    front, 0 beside it."""

    x: float
    y: float
    setting: Setting
    mark: int = 0


@dataclass(frozen=True)
class Cell:
    """``share``: 0 for the worst cell of its scale to 1 for the best, None for an empty one."""

    text: str
    title: str
    share: float | None
    best: bool = False


@dataclass(frozen=True)
class Heat:
    """Rows of cells under ``columns``; ``corner``: what rows and columns are."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    more: int = 0


@dataclass(frozen=True)
class Agreement:
    """The objective against accuracy over settings of one benchmark. ``correlation``: Spearman's, None with
    fewer than LEAST settings or without differences."""

    recipe: str
    spots: list[Spot]
    correlation: float | None


def pareto(view: View) -> list[Spot]:
    """Complete settings with hours and the first known of accuracy and objective; those on the front are
    numbered by their hours.

    On the front is what no other setting beats in one of the two without being worse in the other.
    """
    metric = "accuracy" if view.labelled else "objective"
    spots = [
        Spot(s.hours, y, s)
        for s in view.settings
        if s.complete and s.hours is not None and math.isfinite(y := view.summary(s.trials, metric)[0])
    ]
    on, highest = set(), -math.inf
    for spot in sorted(spots, key=lambda s: (s.x, -s.y)):
        if spot.y > highest:
            on.add(id(spot))
            highest = spot.y
    order = {id(s): i for i, s in enumerate(sorted((s for s in spots if id(s) in on), key=lambda s: s.x), 1)}
    return [Spot(s.x, s.y, s.setting, order.get(id(s), 0)) for s in spots]


def agreement(view: View) -> list[Agreement]:
    """For each benchmark the objective against accuracy, where the objective is label-free and labels
    exist."""
    if view.oracle or not view.labelled:
        return []
    result = []
    for recipe in view.recipes:
        spots = []
        for s in view.settings:
            trials = [r for r in s.trials if r.recipe == recipe]
            x, y = view.summary(trials, "objective")[0], view.summary(trials, "accuracy")[0]
            if math.isfinite(x) and math.isfinite(y):
                spots.append(Spot(x, y, s))
        if spots:
            result.append(Agreement(recipe, spots, spearman([s.x for s in spots], [s.y for s in spots])))
    return result


def choice(view: View) -> dict[str, Any] | None:
    """How well the objective chose: accuracy of the recommended setting, of the best by labels, of a setting
    drawn blindly, and the place of the recommended one among the complete settings; None without labels or
    with a single setting."""
    complete = [
        (s, a)
        for s in view.settings
        if s.complete and math.isfinite(a := view.summary(s.trials, "accuracy")[0])
    ]
    if view.oracle or len(complete) < 2 or view.best is not complete[0][0]:
        return None
    chosen = complete[0][1]
    best, top = max(complete, key=lambda item: item[1])
    return {
        "chosen": chosen,
        "best": top,
        "setting": view.setting_text(best.first),
        "lost": top - chosen,
        "mean": float(np.mean([a for _, a in complete])),
        "place": 1 + sum(a > chosen for _, a in complete),
        "of": len(complete),
    }


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None for fewer than LEAST pairs or when one side
    does not vary."""
    if len(a) < LEAST:
        return None
    x, y = np.array(ranks(a)), np.array(ranks(b))
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def benchmark_heat(view: View) -> list[Heat]:
    """Settings (rows, best first) against benchmarks (columns) for each metric; empty for one benchmark.
    Shares are per benchmark."""
    if len(view.recipes) < 2 or not view.settings:
        return []
    shown = view.settings[:ROWS]
    heats = []
    for metric in view.metrics:
        columns = [
            [view.summary([r for r in s.trials if r.recipe == recipe], metric) for s in shown]
            for recipe in view.recipes
        ]
        cells = [
            _cells(
                view,
                metric,
                column,
                [f"{view.benchmark(recipe)}, {view.setting_text(s.first)}" for s in shown],
            )
            for recipe, column in zip(view.recipes, columns, strict=True)
        ]
        rows = [
            (
                ", ".join(a.text(s.first.values.get(a.name)) for a in view.axes)
                or view.setting_text(s.first),
                [column[i] for column in cells],
            )
            for i, s in enumerate(shown)
        ]
        heats.append(
            Heat(
                view.title(metric),
                ", ".join(a.label for a in view.axes) + " / benchmark",
                [view.benchmark(r) for r in view.recipes],
                rows,
                len(view.settings) - len(shown),
            )
        )
    return heats


def axis_heats(view: View) -> list[tuple[str, list[Heat]]]:
    """(pair, heat map a metric) for pairs of discrete axes, the pairs with the widest means of the objective
    first; at most PAIRS."""
    discrete = [a for a in view.axes if a.discrete]
    widths = {a.name: _width(view, a) for a in discrete}
    pairs = sorted(combinations(discrete, 2), key=lambda p: -(widths[p[0].name] + widths[p[1].name]))
    return [
        (f"{a.label} and {b.label}", heats)
        for a, b in pairs[:PAIRS]
        if (heats := [_pair(view, metric, a, b) for metric in view.metrics])
    ]


def _pair(view: View, metric: str, a: Axis, b: Axis) -> Heat:
    if len(a.values) < len(b.values):
        a, b = b, a
    values = [[view.summary(_with(view.judged, (a, v), (b, w)), metric) for w in b.values] for v in a.values]
    titles = [
        [
            f"{a.label} {a.text(v)}, {b.label} {b.text(w)}, {len(_with(view.judged, (a, v), (b, w)))} trials"
            for w in b.values
        ]
        for v in a.values
    ]
    flat = _cells(view, metric, [c for row in values for c in row], [t for row in titles for t in row])
    rows = [(a.text(v), flat[i * len(b.values) : (i + 1) * len(b.values)]) for i, v in enumerate(a.values)]
    return Heat(view.title(metric), f"{a.label} / {b.label}", [b.text(w) for w in b.values], rows)


def _cells(
    view: View, metric: str, values: Sequence[tuple[float, float | None]], titles: Sequence[str]
) -> list[Cell]:
    known = [m for m, _ in values if math.isfinite(m)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    cells = []
    for (mean, spread), title in zip(values, titles, strict=True):
        if not math.isfinite(mean):
            cells.append(Cell("-", f"{title}: not tried", None))
            continue
        share = (mean - low) / (high - low) if high > low else 0.5
        digits = 1 if metric == "accuracy" or view.oracle else 3
        cells.append(
            Cell(
                f"{mean:.{digits}f}",
                f"{title}: {view.number(metric, mean, spread)}",
                share,
                mean == high and high > low,
            )
        )
    return cells


def _with(trials: Sequence[TrialResult], *wanted: tuple[Axis, Any]) -> list[TrialResult]:
    return [r for r in trials if all(a.name in r.values and same(r.values[a.name], v) for a, v in wanted)]


def _width(view: View, axis: Axis) -> float:
    means = [
        m
        for v in axis.values
        if math.isfinite(m := view.summary(_with(view.judged, (axis, v)), "objective")[0])
    ]
    return max(means) - min(means) if means else 0.0

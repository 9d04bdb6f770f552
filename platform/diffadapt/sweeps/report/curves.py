"""One factor at a time: the mean of a metric at each value of an axis, with its deviation over seeds, and
where more no longer helps."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.sweeps.recommend import is_seed
from diffadapt.sweeps.report.axis import Axis, same
from diffadapt.sweeps.report.view import View
from diffadapt.sweeps.result import TrialResult

BINS = 6
"""Ranges are cut into at most so many bins of equally many trials."""
SHARE = 0.9
"""Returns diminish from the smallest value that has this share of the gain from the smallest value to the
best."""


@dataclass(frozen=True)
class Point:
    """Mean of ``trials`` trials at ``x`` (Axis.number) and its deviation over ``seeds`` seeds, None with
    fewer than two."""

    value: Any
    x: float
    mean: float
    spread: float | None
    trials: int
    seeds: int


@dataclass(frozen=True)
class Curve:
    """``points``: the other settings averaged, as ``basis`` says; ``fixed``: the others as recommended, empty
    where that is the same or was not tried; ``dots``: (x, value, trial) of single trials, over several
    benchmarks of settings (their first trial). ``elbow``: the value from which more helps little, None where
    there is none; ``remark``: what is said of it."""

    axis: Axis
    metric: str
    points: list[Point]
    fixed: list[Point]
    dots: list[tuple[float, float, TrialResult]]
    basis: str
    elbow: Any = None
    remark: str = ""


def curves(view: View, axis: Axis) -> list[Curve]:
    """A curve for each metric of the view; a metric that no trial has is left out."""
    return [c for metric in view.metrics if (c := _curve(view, axis, metric)).dots]


def _curve(view: View, axis: Axis, metric: str) -> Curve:
    trials = [r for r in view.judged if axis.name in r.values and math.isfinite(view.summary([r], metric)[0])]
    if len(view.recipes) > 1:
        single = [(s.first, view.summary(s.trials, metric)[0]) for s in view.settings if s.complete]
        dots = [
            (axis.number(r.values[axis.name]), v, r)
            for r, v in single
            if axis.name in r.values and math.isfinite(v)
        ]
    else:
        dots = [(axis.number(r.values[axis.name]), view.summary([r], metric)[0], r) for r in trials]
    if not axis.discrete:
        points = _bins(view, axis, metric, trials)
        basis = (
            f"means of {len(points)} bins of equally many trials, whatever their other settings"
            if points
            else "too few trials for a mean"
        )
        return Curve(axis, metric, points, [], dots, basis)
    groups = _blocks(axis, trials)
    values = [v for v in axis.values if any(any(same(v, w) for w, _ in block) for block in groups.values())]
    whole = {
        k: block for k, block in groups.items() if all(any(same(v, w) for w, _ in block) for v in values)
    }
    used = whole or groups
    points = [
        p
        for v in values
        if (
            p := _point(view, axis, metric, v, [r for block in used.values() for w, r in block if same(v, w)])
        )
    ]
    best = _block(axis, view.best.first) if view.best else ""
    fixed = (
        []
        if len(groups) < 2
        else _fixed(
            view, axis, metric, values, [r for k, block in groups.items() if k[1] == best for _, r in block]
        )
    )
    elbow, remark = diminishing(axis, points)
    return Curve(axis, metric, points, fixed, dots, _basis(view, len(whole), len(groups)), elbow, remark)


def diminishing(axis: Axis, points: Sequence[Point]) -> tuple[Any, str]:
    """(value, sentence) where returns diminish on an axis that counts images or prompts; (None, '') on others
    and with fewer than three values.

    The smallest value that has SHARE of the gain from the smallest value to the best; with deviations over
    seeds also one whose mean is at most one standard error below the best (the one-standard-error rule of
    Breiman et al. 1984), if that is smaller. None, and a sentence, where it is the largest value tried.
    """
    if not axis.counts or len(points) < 3:
        return None, ""
    best = max(points, key=lambda p: p.mean)
    if best is points[0]:
        return points[0].value, f"No larger {axis.label} did better than {axis.text(points[0].value)}."
    least = points[0].mean + SHARE * (best.mean - points[0].mean)
    rule = (
        f"the smallest value with {SHARE:.0%} of the gain from {axis.text(points[0].value)} to the best,"
        f" {axis.text(best.value)}"
    )
    if best.spread is not None and (within := best.mean - best.spread / math.sqrt(best.seeds)) < least:
        least, rule = (
            within,
            (
                f"the smallest value whose mean is within one standard error ({best.seeds} seeds) of the"
                f" best, {axis.text(best.value)}"
            ),
        )
    result = next(p for p in points if p.mean >= least)
    if result is points[-1]:
        return (
            None,
            (
                f"The mean still rises at the largest {axis.label} tried, {axis.text(result.value)}: the"
                " point of diminishing returns lies beyond."
            ),
        )
    return result.value, f"Returns diminish from {axis.label} {axis.text(result.value)}: {rule}."


def _blocks(
    axis: Axis, trials: Sequence[TrialResult]
) -> dict[tuple[str, str], list[tuple[Any, TrialResult]]]:
    """Trials alike but for this axis and seeds: (recipe, the other fields) -> (value, trial)."""
    groups: dict[tuple[str, str], list[tuple[Any, TrialResult]]] = defaultdict(list)
    for r in trials:
        groups[(r.recipe, _block(axis, r))].append((r.values[axis.name], r))
    return groups


def _block(axis: Axis, result: TrialResult) -> str:
    return json.dumps(
        {k: v for k, v in result.changes.items() if k not in axis.fields and not is_seed(k)},
        sort_keys=True,
        default=str,
    )


def _point(view: View, axis: Axis, metric: str, value: Any, trials: Sequence[TrialResult]) -> Point | None:
    if not trials:
        return None
    mean, spread = view.summary(trials, metric)
    return Point(value, axis.number(value), mean, spread, len(trials), view.seeds_of(trials, metric))


def _fixed(
    view: View, axis: Axis, metric: str, values: Sequence[Any], trials: Sequence[TrialResult]
) -> list[Point]:
    points = [
        p
        for v in values
        if (p := _point(view, axis, metric, v, [r for r in trials if same(r.values[axis.name], v)]))
    ]
    return points if len(points) > 1 else []


def _bins(view: View, axis: Axis, metric: str, trials: Sequence[TrialResult]) -> list[Point]:
    count = min(BINS, len(trials) // 3)
    if count < 2:
        return []
    order = sorted(trials, key=lambda r: axis.number(r.values[axis.name]))
    points = []
    for part in np.array_split(np.arange(len(order)), count):
        inside = [order[i] for i in part]
        x = float(np.mean([axis.number(r.values[axis.name]) for r in inside]))
        points.append(
            Point(math.exp(x) if axis.log else x, x, view.summary(inside, metric)[0], None, len(inside), 0)
        )
    return points


def _basis(view: View, whole: int, groups: int) -> str:
    what = "combinations of the other settings" + (" and benchmarks" if len(view.recipes) > 1 else "")
    if groups == 1:
        return "nothing else varied"
    if whole == groups:
        return f"averaged over all {groups} {what}"
    if whole:
        return f"averaged over the {whole} of {groups} {what} that were tried with every value"
    return (
        f"averaged over whatever trials have the value: none of the {groups} {what} was tried with every"
        " value, so the means are not like for like"
    )

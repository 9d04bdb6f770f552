"""Sweep folders with invented results, for tests of what is drawn from them. Nothing in them was measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffadapt.core.runs import Root
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import Choice, SearchConfig, Space
from diffadapt.sweeps.trials import make_trial
from diffadapt.sweeps.union import Economy

ECONOMY = (Economy("synth", False, 24, 6000, 6, 1500, 0, 0), Economy("uda", True, 48, 48, 12, 12, 0, 0))

Judge = Callable[[Mapping[str, Any], str], tuple[float | None, float | None]]
"""(axis values, recipe) -> (objective, accuracy)."""


def result(
    values: Mapping[str, Any],
    objective: float | None = 1.0,
    *,
    number: int = 0,
    recipe: str = "toy",
    status: str = "finished",
    accuracy: float | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
    **more: Any,
) -> TrialResult:
    """One INVENTED trial; ``sets``: the fields of axes that have a name of their own."""
    space = Space({name: Choice(v, sets=tuple((sets or {}).get(name, ()))) for name, v in values.items()})
    trial = make_trial(space, recipe, values, number)
    name = more.pop("objective_name", "im")
    return TrialResult(
        trial.id, number, recipe, trial.values, trial.changes, status, name, objective, accuracy, **more
    )  # type: ignore[arg-type]


def fill(
    location: Any,
    space: Space,
    judge: Judge,
    *,
    recipes: Sequence[str] = ("toy",),
    name: str = "toys",
    points: Sequence[Mapping[str, Any]] | None = None,
    state: str = "finished",
    economy: Sequence[Economy] = ECONOMY,
    planned: int | None = None,
    change: Callable[[TrialResult], TrialResult | None] = lambda r: r,
    overrides: Mapping[str, Any] | None = None,
) -> Sweep:
    """A sweep's folder with a trial for each recipe and point (default: the grid); ``change`` alters a result
    or drops it (None)."""
    points = (
        points
        if points is not None
        else [
            dict(zip(space.axes, c, strict=True))
            for c in itertools.product(*(a.values for a in space.axes.values()))
        ]
    )  # type: ignore[union-attr]
    sweep = Sweep(Root(str(location)), name)
    sweep.describe(name, space, list(recipes), overrides or {}, economy)
    count = 0
    for recipe in recipes:
        for values in points:
            objective, accuracy = judge(values, recipe)
            trial = make_trial(space, recipe, values, count)
            made = TrialResult(
                trial.id,
                count,
                recipe,
                trial.values,
                trial.changes,
                "finished",
                space.search.objective,
                objective,
                accuracy,
                "MCC",
                seconds=7.0,
                device_hours=0.01 + 0.001 * (count % 7),
                device="cpu",
                made=3,
                found=5,
            )
            count += 1
            if (kept := change(made)) is not None:
                sweep.record(kept)
    sweep.write_status(
        state, {"trials": {"shards": count if planned is None else planned, "done": count, "hits": 0}}
    )
    return sweep


def wave(values: Mapping[str, Any], recipe: str = "toy") -> tuple[float, float]:
    """An objective and an accuracy that rise with numbers, saturate, and differ a little by everything."""
    total = 0.0
    for k, (name, v) in enumerate(values.items()):
        number = (
            float(v)
            if isinstance(v, (int, float)) and not isinstance(v, bool)
            else float(sum(map(ord, str(v))) % 7) / 3
        )
        total += np.log1p(abs(number)) / (1 + k) + 0.02 * np.sin(5 * number + len(name))
    total += 0.1 * (sum(map(ord, recipe)) % 5)
    return round(float(1 + 0.3 * total), 6), round(float(60 + 8 * total + np.sin(9 * total)), 4)


def failed(r: TrialResult, error: str) -> TrialResult:
    return replace(
        r, status="failed", objective=None, accuracy=None, device_hours=None, device="", error=error
    )


SEARCH = SearchConfig()

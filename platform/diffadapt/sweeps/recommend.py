"""The settings of a sweep, best first, and the recommended one as a file that ``diffadapt run`` takes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffadapt.core.redact import scrub
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import ORACLE

SEED_FIELDS = ("seed", "seeds")


@dataclass(frozen=True)
class Setting:
    """Finished trials that differ by seed or benchmark (recipe) alone.

    ``mean``: of the objective, over the benchmarks, each the mean over its seeds. ``spread``: standard
    deviation (n - 1) of that mean over the seeds, None with fewer than two. ``hours``: mean device hours of a
    trial, None where unknown. ``rank``: mean rank (1 the best) over several benchmarks by a label-free
    objective, whose scale is each benchmark's own; None elsewhere. ``complete``: has every benchmark and at
    least half as many trials as the setting with the most, so that it can be recommended.
    """

    trials: tuple[TrialResult, ...]
    mean: float
    spread: float | None
    hours: float | None
    rank: float | None
    complete: bool

    @property
    def first(self) -> TrialResult:
        return self.trials[0]


def setting(result: TrialResult) -> dict[str, Any]:
    """The trial's axis values without those that only repeat it (seeds)."""
    return {k: v for k, v in result.values.items() if not is_seed(k)}


def is_seed(field: str) -> bool:
    """Whether a recipe field only repeats the work with other random numbers."""
    return field.rpartition(".")[2] in SEED_FIELDS


def by_setting(results: Iterable[TrialResult]) -> list[list[TrialResult]]:
    """Finished trials that differ by seed or benchmark alone, together and by number; settings in the order
    of their first trial."""
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    for r in sorted(results, key=lambda r: (r.number, r.id)):
        if judged(r):
            groups[key(r)].append(r)
    return list(groups.values())


def judged(result: TrialResult) -> bool:
    """Whether a trial was carried out to its end and has an objective; what a scheduler stopped has one of an
    unfinished training."""
    return result.status == "finished" and result.objective is not None and math.isfinite(result.objective)


def key(result: TrialResult) -> str:
    """Equal for trials of one setting. By recipe fields, so that an axis with a name of its own over a seed
    counts as a seed."""
    return json.dumps(
        {k: v for k, v in result.changes.items() if not is_seed(k)}, sort_keys=True, default=str
    )


def seed_of(result: TrialResult) -> str:
    """Equal for trials with equal seeds."""
    return json.dumps({k: v for k, v in result.changes.items() if is_seed(k)}, sort_keys=True, default=str)


def settings(results: Iterable[TrialResult]) -> list[Setting]:
    """Every setting, best first: complete ones by mean rank where there is one, then by mean objective; those
    that are not complete after them, by mean objective. Ties go to the earlier trial, never to measured
    hours, so that a repeated sweep recommends the same.
    """
    groups = by_setting(results)
    if not groups:
        return []
    recipes = {r.recipe for g in groups for r in g}
    fullest = max(map(len, groups))
    result = []
    for group in groups:
        whole = {r.recipe for r in group} == recipes and 2 * len(group) >= fullest
        result.append(Setting(tuple(group), *mean_and_spread(group, objectives), _hours(group), None, whole))
    if not any(s.complete for s in result):  # no setting has every benchmark yet
        widest = max(len({r.recipe for r in s.trials}) for s in result)
        result = [
            replace(s, complete=len({r.recipe for r in s.trials}) == widest and 2 * len(s.trials) >= fullest)
            for s in result
        ]
        if not any(s.complete for s in result):
            result = [replace(s, complete=len(s.trials) == fullest) for s in result]
    result = _ranked(result, recipes)
    return sorted(
        result,
        key=lambda s: (not s.complete, math.inf if s.rank is None else s.rank, -s.mean, s.first.number),
    )


def objectives(result: TrialResult) -> dict[str, float]:
    """The objective of a trial by its seeds; empty where there is none."""
    return {} if result.objective is None else {seed_of(result): result.objective}


def mean_and_spread(
    trials: Iterable[TrialResult], samples: Callable[[TrialResult], Mapping[str, float]]
) -> tuple[float, float | None]:
    """(mean over benchmarks of the means over seeds, standard deviation (n - 1) of the mean over benchmarks
    between the seeds that every benchmark has; None with fewer than two). ``samples``: trial -> {seed:
    number}; NaN where there are none.
    """
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in trials:
        for seed, value in samples(r).items():
            cells[r.recipe][seed].append(float(value))
    if not cells:
        return math.nan, None
    mean = float(np.mean([np.mean([np.mean(v) for v in seeds.values()]) for seeds in cells.values()]))
    common = set.intersection(*(set(seeds) for seeds in cells.values()))
    per_seed = [np.mean([np.mean(seeds[s]) for seeds in cells.values()]) for s in sorted(common)]
    return mean, float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None


def recommend(results: Iterable[TrialResult]) -> list[TrialResult]:
    """The trials of the best complete setting (:func:`settings`); empty when nothing finished."""
    result = settings(results)
    return list(result[0].trials) if result else []


def recommendation(results: Iterable[TrialResult], overrides: Mapping[str, Any]) -> bytes | None:
    """recommended.json: {"recipe", "overrides", "why"} of the best setting, its first benchmark and seed;
    None when nothing finished.

    ``overrides`` are the changes that the sweep's recipe carried already.
    """
    found = settings(results)
    if not found:
        return None
    first = found[0].first
    value = {
        "recipe": first.recipe,
        "overrides": {**overrides, **first.changes, **first.adjusted},
        "why": why(found),
    }
    return json.dumps(scrub(value), indent=1).encode()


def why(found: Sequence[Setting]) -> str:
    """One sentence on what the first of ``found`` was chosen by."""
    best, recipes = found[0], {r.recipe for s in found for r in s.trials}
    name = (
        "accuracy on target labels (oracle, an upper bound)"
        if best.first.objective_name == ORACLE
        else best.first.objective_name
    )
    of = f"of {len(found)} setting{'s' * (len(found) != 1)}"
    over = "1 trial" if len(best.trials) == 1 else f"mean of {len(best.trials)} trials"
    if best.rank is not None:
        return f"best mean rank by {name} over {len(recipes)} benchmarks ({best.rank:.2f}) {of}; {over}"
    text = f"best mean {name} ({best.mean:.4f}) {of}; {over}"
    return text + (
        f"; chosen by target labels in training ({best.first.selection})"
        if best.first.selection == ORACLE and best.first.objective_name != ORACLE
        else ""
    )


def _ranked(found: Sequence[Setting], recipes: set[str]) -> list[Setting]:
    """With mean ranks, where several benchmarks were judged without labels; equal means share their rank."""
    complete = [s for s in found if s.complete and {r.recipe for r in s.trials} == recipes]
    if len(recipes) < 2 or not complete or complete[0].first.objective_name == ORACLE:
        return list(found)
    places: dict[int, list[float]] = defaultdict(list)
    for recipe in recipes:
        means = [
            mean_and_spread((r for r in s.trials if r.recipe == recipe), objectives)[0] for s in complete
        ]
        for s, place in zip(complete, ranks([-m for m in means]), strict=True):
            places[id(s)].append(place)
    return [replace(s, rank=float(np.mean(places[id(s)]))) if id(s) in places else s for s in found]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the smallest; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=float)
    order = np.argsort(array, kind="stable")
    out = np.empty(len(array))
    out[order] = np.arange(1, len(array) + 1)
    for v in np.unique(array):
        out[array == v] = out[array == v].mean()
    return out.tolist()


def _hours(group: Sequence[TrialResult]) -> float | None:
    known = [r.device_hours for r in group if r.device_hours is not None]
    return float(np.mean(known)) if known else None

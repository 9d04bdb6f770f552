"""The trials of a sweep: one recipe with one choice of values each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.config import override, to_dict
from diffadapt.core.identity import digest
from diffadapt.sweeps.space import Choice, Space


@dataclass(frozen=True)
class Trial:
    """``values``: axis -> value; ``changes``: recipe field -> value. Equal recipe and changes have equal
    ids."""

    number: int
    recipe: str
    values: Mapping[str, Any]
    changes: Mapping[str, Any]

    @property
    def id(self) -> str:
        return "t-" + digest({"recipe": self.recipe, "changes": to_dict(self.changes)}, 8)

    def to_dict(self) -> dict[str, Any]:
        return {**to_dict(self), "id": self.id}


def make_trial(space: Space, recipe: str, values: Mapping[str, Any], number: int) -> Trial:
    return Trial(number, recipe, dict(values), space.changes(values))


def enumerate_trials(space: Space, recipes: Sequence[str]) -> list[Trial]:
    """All trials of a grid, or the first ``search.trials`` draws of a random search, for every recipe; none
    for optuna, which decides later.

    The k-th draw does not depend on how many are drawn, and every recipe gets the same draws, so that a
    longer search goes on from a shorter one. Values drawn twice count once.
    """
    search = space.search
    if search.searcher == "optuna":
        return []
    if search.searcher == "grid":
        points = [
            dict(zip(space.axes, combination, strict=True))
            for combination in itertools.product(
                *(a.values for a in space.axes.values() if isinstance(a, Choice))
            )
        ]
    else:
        points = [draw(space, k) for k in range(search.trials)]
    result: dict[str, Trial] = {}
    for recipe in recipes:
        for values in points:
            trial = make_trial(space, recipe, values, len(result))
            result.setdefault(trial.id, trial)
    return list(result.values())


def draw(space: Space, k: int) -> dict[str, Any]:
    """The values of the k-th random draw."""
    generator = np.random.default_rng((space.search.seed, k))
    return {name: axis.at(float(generator.random())) for name, axis in space.axes.items()}


def build(recipe: Any, trial: Trial) -> Any:
    """The recipe value of a trial. Pictures are left out: a sweep makes none."""
    extra = {"figures": False} if hasattr(recipe, "figures") else {}
    return override(recipe, {**extra, **trial.changes})

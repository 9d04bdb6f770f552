"""Where a sweep's next trial comes from: a list that is known beforehand, or Optuna, which learns from the
results so far."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from diffadapt.core.errors import LostError, RecipeError
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.redact import scrub
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import Axis, Choice, Integers, Space
from diffadapt.sweeps.trials import Trial, make_trial

SUGGESTED = "suggested.json"
"""The trials that Optuna has decided on, in a sweep's folder: what was under way when the driver ended is
taken up first."""
STARTUP = 8
"""Trials drawn at random before TPE takes over."""
REPEATS = 64
"""Suggestions in a row that name values tried already after which a space counts as searched through."""


class Source(Protocol):
    """Hands out trials and is told how they ended."""

    def next(self) -> Trial | None:
        """The next trial; None when there is none now (see :attr:`exhausted`)."""
        ...

    def tell(self, result: TrialResult) -> None: ...

    @property
    def exhausted(self) -> bool:
        """Whether no trial will come any more, whatever is told."""
        ...


class Listed:
    """The trials of a grid or of random draws, in their order."""

    def __init__(self, trials: Sequence[Trial]):
        self._left = deque(trials)

    def next(self) -> Trial | None:
        return self._left.popleft() if self._left else None

    def tell(self, result: TrialResult) -> None:
        return None

    @property
    def exhausted(self) -> bool:
        return not self._left


class Optuna:
    """TPE over the axes of a space, a study for each recipe, which take turns until each has
    ``search.trials`` trials.

    It goes on from ``known``: their results are what TPE learns from, open suggestions of an earlier run come
    first, and values that were tried are not suggested again. The k-th suggestion is a function of the
    search's seed, k and the results at hand, so that a search with one trial at a time is the same whether it
    was interrupted or not. With ``search.cost`` the study has two objectives.
    """

    def __init__(self, space: Space, recipes: Sequence[str], known: Sequence[TrialResult], sweep: Sweep):
        self.space, self.sweep = space, sweep
        self.studies = {name: _study(space) for name in recipes}
        before = [
            *_suggested(sweep),
            *({"number": r.number, "recipe": r.recipe, "values": r.values} for r in known),
        ]
        self.suggested: dict[str, Trial] = {
            t.id: t for t in (_trial(space, old) for old in before) if t is not None
        }
        ended = {r.id for r in known if r.status != "failed"}
        self._open = deque(
            sorted(
                (t for t in self.suggested.values() if t.id not in ended and t.recipe in self.studies),
                key=lambda t: t.number,
            )
        )
        self._done: set[str] = set()
        for r in sorted(known, key=lambda r: r.number):
            if r.id in ended:
                self.tell(r)

    def next(self) -> Trial | None:
        if self._open:
            return self._open.popleft()
        counts = {name: sum(t.recipe == name for t in self.suggested.values()) for name in self.studies}
        for name in sorted((n for n in counts if n not in self._done), key=lambda n: counts[n]):
            if (
                counts[name] < self.space.search.trials
                and (trial := self._suggest(name, counts[name])) is not None
            ):
                return trial
            self._done.add(name)
        return None

    @property
    def exhausted(self) -> bool:
        return not self._open and len(self._done) == len(self.studies)

    def tell(self, result: TrialResult) -> None:
        import optuna

        study = self.studies.get(result.recipe)
        values = self._values(result)
        if study is None or values is None:
            return
        space = {name: _distribution(axis) for name, axis in self.space.axes.items()}
        try:
            parameters = {
                name: _parameter(axis, result.values[name]) for name, axis in self.space.axes.items()
            }
            study.add_trial(optuna.trial.create_trial(params=parameters, distributions=space, values=values))
        except (ValueError, KeyError):
            return  # values outside the space, of another version of it

    def _suggest(self, recipe: str, k: int) -> Trial | None:
        """New values for a recipe; None when the space seems to hold no others."""
        import optuna

        study = self.studies[recipe]
        for attempt in range(REPEATS):
            seed = int(
                digest({"seed": self.space.search.seed, "recipe": recipe, "k": k, "attempt": attempt}, 8), 16
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
                asked = study.ask({name: _distribution(axis) for name, axis in self.space.axes.items()})
            # Asked for advice alone: what is told are finished trials, whoever suggested them.
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            values = {name: _value(axis, asked.params[name]) for name, axis in self.space.axes.items()}
            trial = make_trial(
                self.space, recipe, values, 1 + max((t.number for t in self.suggested.values()), default=-1)
            )
            if trial.id not in self.suggested:
                self.suggested[trial.id] = trial
                known = scrub([t.to_dict() for t in self.suggested.values()])
                self.sweep.write(SUGGESTED, json.dumps(known, indent=1).encode())
                return trial
        return None

    def _values(self, result: TrialResult) -> list[float] | None:
        if result.objective is None:
            return None
        if self.space.search.cost == "none":
            return [result.objective]
        return None if result.device_hours is None else [result.objective, result.device_hours]


def _study(space: Space) -> Any:
    try:
        import optuna
    except ImportError:
        raise RecipeError(
            "--search.searcher optuna needs the package optuna: pip install optuna, or use grid or random"
            " search."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        directions=["maximize"] if space.search.cost == "none" else ["maximize", "minimize"]
    )


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choice):
        return CategoricalDistribution(tuple(range(len(axis.values))))  # places, because values may be tuples
    if isinstance(axis, Integers):
        return IntDistribution(
            axis.low, axis.low + (axis.high - axis.low) // axis.step * axis.step, step=axis.step
        )
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _value(axis: Axis, parameter: Any) -> Any:
    return axis.values[parameter] if isinstance(axis, Choice) else parameter


def _parameter(axis: Axis, value: Any) -> Any:
    """The inverse; values that came through a file have lists for tuples, and no secrets."""
    if not isinstance(axis, Choice):
        return value
    return [json.dumps(scrub(v)) for v in axis.values].index(json.dumps(scrub(value)))


def _suggested(sweep: Sweep) -> list[Mapping[str, Any]]:
    try:
        value = parse(sweep.read(SUGGESTED))
    except (LostError, ValueError):
        return []
    return value if isinstance(value, list) else []


def _trial(space: Space, old: Mapping[str, Any]) -> Trial | None:
    """A trial as it was written down; None when it is damaged or does not fit the space."""
    try:
        values = {
            name: _value(axis, _parameter(axis, old["values"][name])) for name, axis in space.axes.items()
        }
        return make_trial(space, old["recipe"], values, int(old["number"]))
    except (KeyError, TypeError, ValueError):
        return None

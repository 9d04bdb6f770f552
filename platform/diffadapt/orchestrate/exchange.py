"""The exchange between members of a population: Ray's synchronous population-based training, made
repeatable."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator

from diffadapt.core.identity import digest
from diffadapt.run.population import Member
from diffadapt.sweeps.space import Choice, Space

MEMBER, EPOCH, SCORE = "member", "epoch", "score"
"""In a Tune trial's configuration: the member's number. In its reports: epochs trained, and the objective
(-inf where the round failed)."""


class Exchange(PopulationBasedTraining):
    """Ray's synchronous exchange with draws that depend on the seed and the epoch alone, of values that stay
    within their axes."""

    def __init__(self, members: Sequence[Member], room: int):
        self._members, self._space, self._room = members, members[0].space, room
        self._gone: list[TuneTrial] = []
        super().__init__(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            perturbation_interval=members[0].interval,
            synch=True,
            log_config=False,
            hyperparam_mutations={
                n: list(a.values) if isinstance(a, Choice) else _drawn(a) for n, a in self._space.axes.items()
            },
            custom_explore_fn=lambda config: {**config, **within(self._space, config)},
        )

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        if (
            not self._trial_state
        ):  # else one process is kept over an exchange, and the others start anew, torch and all
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, self._room)
        for axis, value in self._members[trial.config[MEMBER]].work.trial.values.items():
            trial.config.setdefault(axis, value)  # one that is taken up again keeps what it has
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        for gone in self._gone:  # Tune counts them among the living
            state: Any = self._trial_state[gone]
            state.last_train_time = self._next_perturbation_sync
        with seeded(self._space.search.seed, result[EPOCH]):
            return super().on_trial_result(tune_controller, trial, result)

    def over(self) -> bool:
        """Whether every member has come to its end."""
        return all(trial.is_finished() for trial in self._trial_state)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """A member that is given up must not be waited for."""
        super().on_trial_error(tune_controller, trial)
        if trial.should_recover():
            return
        self._gone.append(trial)
        self._trial_state[trial].last_score = None
        others = [t for t in tune_controller.get_live_trials() if t not in self._gone and not t.is_finished()]
        if others and all(
            self._trial_state[t].last_train_time >= self._next_perturbation_sync for t in others
        ):
            self.on_trial_result(tune_controller, others[0], self._trial_state[others[0]].last_result or {})

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict, dict]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {**config, MEMBER: trial.config[MEMBER]}, operations


class Population(BasicVariantGenerator):
    """All members, from the start. It has not come to its end before they have: Tune would give up idle
    processes."""

    def __init__(self, exchange: Exchange):
        super().__init__()
        self._exchange = exchange

    def is_finished(self) -> bool:
        return super().is_finished() and self._exchange.over()


def _drawn(axis: Any) -> Any:
    return lambda: axis.at(random.random())


def within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the axes moved back into their ranges."""
    return {
        n: values[n] if isinstance(a, Choice) else min(max(values[n], a.low), a.high)
        for n, a in space.axes.items()
    }


@contextlib.contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Python's generator, which Ray's exchange draws from, as a function of ``seed`` and ``epoch``;
    afterwards as it was."""
    before = random.getstate()
    random.seed(int(digest(["exchange", seed, epoch], 15), 16))
    try:
        yield
    finally:
        random.setstate(before)

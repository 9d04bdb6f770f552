"""Population-based training on Ray Tune: members train side by side, and after every few epochs poor ones
take over from good ones.

The exchange is Ray's PopulationBasedTraining in its synchronous form: nobody trains on before all have come
as far, the last quarter by objective takes over weights, optimiser and averages of a random member of the
first quarter, and its values, each drawn anew with probability 1/4, else moved (a real number times 0.8 or
1.2 within its axis, a choice to its neighbour). All random draws come from the search's seed and the epoch,
so that a population does not depend on how many members run at a time; and one that was killed is begun again
from the start, where every round that was finished is found instead of trained (run/population.py).

Limits. A result is the end of a history, not of a recipe: running the recommended values from the start gives
another model; ``policy.json`` and ``model/`` of the trial hold what was found. Whole rounds wait for the
slowest member. A member trains in one process, reads its data anew every round, and does not try smaller
batches when memory runs out. Recipes of a sweep have populations of their own, one after the other.
``--search.concurrent`` below the number of nodes is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from diffadapt.core import checked
from diffadapt.core.errors import DiffadaptError, StoreError, TrainingError
from diffadapt.orchestrate.capacity import cluster_nodes
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.exchange import EPOCH, MEMBER, SCORE, Exchange, Population
from diffadapt.orchestrate.resources import Layout
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.epochs import trained
from diffadapt.run.executor import limit_threads, one_line
from diffadapt.run.population import (
    Member,
    State,
    advance,
    check_population,
    clear,
    last_fit,
    needed,
    outcome,
)
from diffadapt.run.progress import NodeProgress
from diffadapt.run.runner import ExecutionConfig, Runner
from diffadapt.run.sweep import OnResult, Search
from diffadapt.run.trial import Silent, failed
from diffadapt.run.work import Work
from diffadapt.sweeps.result import TrialResult, from_json
from diffadapt.sweeps.trials import Trial, build, enumerate_trials

BEGUN = "population.json"
"""In the sweep's folder, of the population that trains: recipe -> {"members": trials, "lost": trial -> the
round in which it was given up}."""
_RESULT = "result"


def run_population(
    search: Search,
    trials: Sequence[Trial],
    known: Sequence[TrialResult],
    on_result: OnResult,
    config: ExecutionConfig,
    runner: RayRunner | None = None,
) -> None:
    """Train the open ``trials`` as populations, one for each recipe, and hand each result to ``on_result``
    once.

    A population that was begun goes on with the members it had, finished ones (``known``) among them; trials
    that were added to the sweep since form one of their own. ``runner`` is used where one is open already.
    RecipeError for a space that cannot change in the middle of a training, ResourceError when no member fits.
    """
    check_population(search.space, search.recipes)
    own = runner or RayRunner(config)
    own.prepare()
    try:
        finished = {r.id for r in known if r.status == "finished"}
        for recipe in search.recipes:
            for members in _populations(search, recipe, trials):
                _one(search, recipe, members, finished, on_result, own)
    finally:
        if runner is None:
            own.close()


def _populations(search: Search, recipe: str, trials: Sequence[Trial]) -> list[list[Trial]]:
    every = {t.id: t for t in enumerate_trials(search.space, list(search.recipes)) if t.recipe == recipe}
    waiting = [t for t in trials if t.recipe == recipe]
    ids = _begun(search, recipe).get("members", [])
    known = [every[i] for i in ids if i in every]
    if len(known) < len(ids) or not {t.id for t in waiting} & set(ids):
        return [waiting] if waiting else []
    added = [t for t in waiting if t.id not in ids]
    return [known, added] if added else [known]


def _begun(search: Search, recipe: str) -> dict[str, Any]:
    return _written(search).get(recipe, {})


def _written(search: Search) -> dict[str, Any]:
    if not search.sweep.has(BEGUN):
        return {}
    try:
        return checked.from_json(search.sweep.read(BEGUN))
    except ValueError:
        raise StoreError(
            f"The file {BEGUN} of {search.sweep.name} is damaged: delete it, then run the same command;"
            " rounds that are trained are found again."
        ) from None


def _begin(search: Search, recipe: str, members: Sequence[str], lost: Mapping[str, int]) -> None:
    every = _written(search)
    search.sweep.write(
        BEGUN, checked.to_json({**every, recipe: {"members": list(members), "lost": dict(lost)}})
    )


def _one(
    search: Search,
    recipe: str,
    trials: list[Trial],
    finished: set[str],
    on_result: OnResult,
    runner: RayRunner,
) -> None:
    ids = [t.id for t in trials]
    begun = _begun(search, recipe)
    lost = dict(begun.get("lost", {})) if begun.get("members") == ids else {}
    _begin(search, recipe, ids, lost)
    try:
        members = _members(search, recipe, trials, lost, runner)
    except DiffadaptError as error:
        for trial in trials:
            result = failed(search.work(trial), one_line(error))
            search.sweep.record(result)
            on_result(result)
        return

    def on_lost(member: Member, epoch: int) -> None:
        lost[member.work.trial.id] = epoch
        _begin(search, recipe, ids, lost)

    news = _News(search, members, finished, on_result, on_lost)
    _tune(search, members, news, runner.layout(shrink=True))
    if news.error is not None:
        raise news.error
    _begin(search, recipe, (), {})
    for trial in ids:
        clear(search.sweep, trial)


def _members(
    search: Search, recipe: str, trials: Sequence[Trial], lost: Mapping[str, int], runner: RayRunner
) -> list[Member]:
    """The members, after everything is in the store that stands before their training."""
    first = build(search.recipes[recipe], trials[0])
    pipeline = first.pipeline()
    node = last_fit(recipe, pipeline)
    plans = pipeline.plan(search.root.store)
    before = {n: p for n, p in plans.items() if n in needed(pipeline, node)}
    progress = Silent({n: NodeProgress(len(p.shards), p.items) for n, p in before.items() if p.stage.stored})
    Work(search.sweep, search.root.store, before, progress, runner.config.max_failed_fraction).run(
        lambda: _Borrowed(runner)
    )
    epochs = trained(plans[node].stage).config.epochs
    return [
        Member(
            search.work(t), search.space, node, epochs, search.space.search.grace_epochs, lost.get(t.id, 0)
        )
        for t in trials
    ]


class _Borrowed(Runner):
    """A runner that another closes."""

    def __init__(self, runner: RayRunner):
        self.name = runner.name
        self.prepare, self.existing = runner.prepare, runner.existing
        self.run_chains, self.run_fits = runner.run_chains, runner.run_fits

    def close(self) -> None:
        return None


def _tune(search: Search, members: Sequence[Member], news: _News, layout: Layout) -> None:
    from diffadapt.orchestrate.train import arrow_filesystem
    from diffadapt.orchestrate.tune_settings import TUNE_ENVIRONMENT, tune_environment

    quiet_logs()
    settings, place = search.space.search, search.sweep.place
    room = min(layout.actors, settings.concurrent or layout.actors)
    told = _Told(tuple(members), layout.device, layout.threads)
    trainable = tune.with_resources(
        tune.with_parameters(_Rounds, told=[ray.put(told)]), _resources(layout, room)
    )
    folder, exchange = f"{search.sweep.name}/.tune", Exchange(members, room)
    try:
        with tune_environment(TUNE_ENVIRONMENT):
            tune.Tuner(
                trainable,
                param_space={MEMBER: tune.grid_search(list(range(len(members))))},
                tune_config=tune.TuneConfig(
                    scheduler=exchange,
                    search_alg=Population(exchange),
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name="population",
                    storage_path=place.join(folder),
                    storage_filesystem=None if place.local else arrow_filesystem(place),
                    verbose=0,
                    callbacks=[news],
                    failure_config=tune.FailureConfig(max_failures=settings.retries),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
                ),
            ).fit()
    finally:
        place.remove(folder)


def _resources(layout: Layout, room: int) -> dict[str, float]:
    """What a member reserves: so much of the CPUs that no more than ``room`` run side by side."""
    cpus = [n.get("CPU", 0.0) for n in cluster_nodes()]
    share = max(layout.actor.cpus, min(sum(cpus) / room, max(cpus)))
    if layout.actor.gpus:
        return {"cpu": share if room < layout.actors else layout.actor.cpus, "gpu": layout.actor.gpus}
    return {"cpu": share}


def _name(trial: TuneTrial) -> str:
    return trial.trial_id


@dataclass(frozen=True)
class _Told:
    """What every process of a population is told."""

    members: tuple[Member, ...]
    device: str
    threads: int


class _Rounds(tune.Trainable):
    """A process that trains a round of one member after the other. Checkpoints that travel through Tune say
    where the weights lie."""

    def setup(self, config: dict[str, Any], told: list | None = None) -> None:
        assert told is not None
        self.told: _Told = ray.get(told[0])
        limit_threads(max(1, self.told.threads))
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.member = self.told.members[config[MEMBER]]
        self.values = {axis: config[axis] for axis in self.member.space.axes}
        self.state: State | None = None
        return True

    def step(self) -> dict[str, Any]:
        if 0 < self.member.lost <= self.member.end(self.state.epoch if self.state else 0):
            raise TrainingError(
                "The member's process was lost here before the population was taken up again."
            )
        self.state = state = advance(
            self.member, self.state, self.values, self.told.device, self.told.threads
        )
        result: dict[str, Any] = {
            EPOCH: state.epoch,
            SCORE: -math.inf if state.score is None else state.score,
            "done": state.epoch >= self.member.epochs,
        }
        return (
            {**result, _RESULT: outcome(self.member, state).to_json().decode()} if result["done"] else result
        )

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        assert self.state is not None
        return {"state": asdict(self.state)}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        self.state = State(**checkpoint["state"]) if checkpoint else None


class _News(tune.Callback):
    """Hands results on as they come. An error of ``on_result`` is kept, because Tune would turn it into one
    of its own."""

    def __init__(
        self,
        search: Search,
        members: Sequence[Member],
        finished: set[str],
        on_result: OnResult,
        on_lost: Callable[[Member, int], None],
    ):
        self.search, self.members, self.done, self.on_result, self.on_lost = (
            search,
            members,
            set(finished),
            on_result,
            on_lost,
        )
        self.error: Exception | None = None

    def on_trial_result(
        self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        if _RESULT in result:
            self._deliver(from_json(result[_RESULT]))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        member, tries = self.members[trial.config[MEMBER]], self.search.space.search.retries + 1
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        result = failed(
            member.work,
            f"The member's process was lost {tries}"
            f" time{'s' * (tries > 1)}{f' ({lines[-1].strip()})' if lines else ''}: look at the machine's"
            " memory and at Ray's logs; the same command trains it anew.",
        )
        self._guard(self.on_lost, member, member.end((trial.last_result or {}).get(EPOCH, 0)))
        self._guard(self.search.sweep.record, result)
        self._deliver(result)

    def _deliver(self, result: TrialResult) -> None:
        if result.id not in self.done:
            self.done.add(result.id)
            self._guard(self.on_result, result)

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self.error = self.error or error

    def get_state(self) -> None:
        return None

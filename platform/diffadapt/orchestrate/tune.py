"""Trials side by side on Ray Tune, each in a process of its own that carries it out as a run of one machine
does.

Tune schedules; nothing that is finished lives in it. Results are in the sweep's folder and in the store, so
that a search goes on from there after anything, and Tune's own files go with the process that made them.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import ray

from diffadapt.core.config import field_types, override
from diffadapt.core.errors import DiffadaptError, RecipeError, ResourceError
from diffadapt.core.files import scratch
from diffadapt.core.runs import Root
from diffadapt.core.sealed import SUCCESS
from diffadapt.orchestrate import metrics
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.resources import Layout
from diffadapt.orchestrate.runner import PATIENCE_SECONDS, RayRunner
from diffadapt.orchestrate.searchers import Listed, Optuna, Source
from diffadapt.orchestrate.tune_settings import TUNE_ENVIRONMENT, tune_environment
from diffadapt.run.epochs import AGE, OBJECTIVE, RESULT, read_epochs, watched_epochs
from diffadapt.run.executor import limit_threads
from diffadapt.run.runner import ExecutionConfig, Runner
from diffadapt.run.sweep import OnResult, Search
from diffadapt.run.trial import TrialWork, run_trial
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import SearchConfig
from diffadapt.sweeps.trials import Trial

WATCH = "select.watch"
BRACKETS = 3
"""Brackets of Hyperband at most: with three, trials may go without a decision until nine times the grace."""
ROOM_SECONDS = 5.0
"""How old a count of the cluster's room may be."""
_STOP_SECONDS = "30"
"""How long a trial that was stopped may take to clean up before its process is given up instead of used
again."""


class TuneFan:
    """Carries out trials on Ray Tune. ``config``: the recipe's execution settings; ``inner`` makes the runner
    inside a trial's process, by default the local one."""

    name = "ray"

    def __init__(self, config: ExecutionConfig, inner: Callable[[ExecutionConfig], Runner] | None = None):
        self.config, self.inner = config, inner
        self.runner = RayRunner(config)

    def run(
        self, search: Search, trials: Sequence[Trial], known: Sequence[TrialResult], on_result: OnResult
    ) -> None:
        """Carry out ``trials`` (for optuna: decide them, going on from ``known``) and hand each result to
        ``on_result`` once.

        RecipeError for a scheduler with a recipe that reports nothing between its start and end;
        ResourceError when no trial fits.
        """
        settings = search.space.search
        on_result = metrics.counted_trials(on_result)
        self.runner.prepare()
        if settings.scheduler == "pbt":
            from diffadapt.orchestrate.population import run_population

            run_population(search, trials, known, on_result, self.config, self.runner)
            return
        if settings.scheduler != "none":
            search = _watched(search)
        learns = settings.searcher == "optuna"
        source = Optuna(search.space, list(search.recipes), known, search.sweep) if learns else Listed(trials)
        self._tune(search, source, _scheduler(search, trials, known), on_result, _needs if learns else None)

    def close(self) -> None:
        """End what runs and, if we started Ray, its processes."""
        self.runner.close()

    def _tune(self, search: Search, source: Source, scheduler: Any, on_result: OnResult, plans: Any) -> None:
        from ray import tune

        from diffadapt.orchestrate.desk import Desk

        quiet_logs()
        settings, layout = search.space.search, self.runner.layout(shrink=True)
        desk = Desk(
            source,
            search.work,
            search.sweep,
            _Room(self.runner, settings),
            settings.retries,
            on_result,
            plans,
        )
        shared = ray.put(
            _Shared(
                _inner(self.config, layout),
                layout.train_workers > 1,
                settings.scheduler != "none",
                self.inner,
            )
        )
        trainable = tune.with_resources(tune.with_parameters(_trial, shared=[shared]), _resources(layout))
        environment = {**TUNE_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(_room(layout, settings))}
        try:
            with scratch("tune") as folder, tune_environment(environment):
                tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(
                        search_alg=desk,
                        scheduler=scheduler,
                        num_samples=-1,
                        reuse_actors=True,
                        trial_name_creator=_name,
                        trial_dirname_creator=_name,
                    ),
                    run_config=tune.RunConfig(
                        name="sweep",
                        storage_path=folder,
                        verbose=0,
                        callbacks=[desk.news],
                        failure_config=tune.FailureConfig(max_failures=0),
                    ),
                ).fit()
        except Exception:
            if desk.error is None:
                raise
        if desk.error is not None:
            raise desk.error


@dataclass(frozen=True)
class _Shared:
    """What all trials of a sweep are told."""

    execution: ExecutionConfig
    nested: bool
    epochs: bool
    inner: Callable[[ExecutionConfig], Runner] | None


def _trial(config: dict[str, Any], shared: list) -> None:
    """One trial in its worker process; processes are used again, so that torch is imported once in each."""
    from ray import tune

    told: _Shared = ray.get(shared[0])
    work: TrialWork = config["work"]
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = _STOP_SECONDS
    limit_threads(max(1, told.execution.threads))

    def on_epoch(number: int, value: float) -> None:
        tune.report({OBJECTIVE: value, AGE: number})

    result = run_trial(
        work, lambda execution: _runner(execution, told), on_epoch=on_epoch if told.epochs else None
    )
    tune.report({RESULT: result.to_json().decode()})


def _runner(execution: ExecutionConfig, told: _Shared) -> Runner:
    """The runner inside a trial: this process, or Ray Train for fits of several workers."""
    mine = replace(
        told.execution,
        max_failed_fraction=execution.max_failed_fraction,
        resident_models=execution.resident_models,
    )
    if told.inner is not None:
        return told.inner(mine)
    if told.nested:
        return RayRunner(mine)
    from diffadapt.run.local import LocalRunner

    return metrics.CountedRunner(LocalRunner(mine))


def _inner(config: ExecutionConfig, layout: Layout) -> ExecutionConfig:
    """The execution settings inside a trial."""
    if layout.train_workers > 1:
        return replace(config, actors=layout.train_workers, device=layout.device)
    return replace(
        config, runner="local", address=None, device=layout.device, threads=layout.threads, train_workers=1
    )


def _resources(layout: Layout) -> dict[str, float]:
    """What a trial's process reserves; one that nests Ray Train next to nothing, or its workers would wait
    for its end."""
    if layout.train_workers > 1:
        return {"cpu": 0.01}
    return {"cpu": layout.actor.cpus, **({"gpu": layout.actor.gpus} if layout.actor.gpus else {})}


def _room(layout: Layout, settings: SearchConfig) -> int:
    """Trials side by side."""
    room = max(1, layout.lanes // layout.train_workers) if layout.train_workers > 1 else layout.actors
    return min(room, settings.concurrent or room)


class _Room:
    """Counts anew every ROOM_SECONDS how many trials fit; ResourceError when none did for
    PATIENCE_SECONDS."""

    def __init__(self, runner: RayRunner, settings: SearchConfig):
        self.runner, self.settings, self.count = runner, settings, 0
        self.when = -ROOM_SECONDS
        self.good = time.monotonic()

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self.when >= ROOM_SECONDS:
            self.when = now
            try:
                self.count, self.good = _room(self.runner.layout(shrink=True), self.settings), now
            except ResourceError:  # nodes are lost; others may come instead
                if now - self.good > PATIENCE_SECONDS:
                    raise
        return self.count


def _watched(search: Search) -> Search:
    """The search with recipes whose fits report the objective after each epoch."""
    settings = search.space.search
    for name, recipe in search.recipes.items():
        if WATCH not in field_types(recipe):
            raise RecipeError(
                f"The recipe {name} reports nothing between its start and its end, so that --search.scheduler"
                f" {settings.scheduler} has nothing to judge by: leave the scheduler out."
            )
    return replace(
        search, recipes={n: override(r, {WATCH: settings.objective}) for n, r in search.recipes.items()}
    )


def _needs(work: TrialWork) -> dict[str, str]:
    """What a trial makes or finds: digest -> name in the store."""
    plans = work.build().pipeline().plan(Root(work.location).store)
    return {
        p.digest: f"{p.path}/{SUCCESS}" if plan.stage.fit_stage else p.path
        for plan in plans.values()
        for p in plan.shards
        if p.path
    }


def _scheduler(search: Search, trials: Sequence[Trial], known: Sequence[TrialResult]) -> Any:
    """ASHA, or Hyperband in its asynchronous form (ASHA with several brackets), that knows the epochs of
    trials that ended before.

    None where nothing is scheduled. Hyperband's synchronous form pauses trials until a whole bracket is
    there, which leaves devices idle.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler

    settings = search.space.search
    if settings.scheduler == "none":
        return None
    epochs = max(
        (sum(watched_epochs(recipe.pipeline()).values()) for recipe in _recipes(search, trials)), default=1
    )
    longest = max(settings.grace_epochs, epochs)
    rungs = 1 + int(math.log(longest / settings.grace_epochs, settings.reduction))
    scheduler: Any = AsyncHyperBandScheduler(
        time_attr=AGE,
        metric=OBJECTIVE,
        mode="max",
        max_t=longest,
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction,
        brackets=min(BRACKETS, rungs) if settings.scheduler == "hyperband" else 1,
        stop_last_trials=False,
    )
    for result in known:
        past = SimpleNamespace(trial_id=result.id)
        scheduler.on_trial_add(None, past)
        for number, value in sorted(read_epochs(search.sweep.trial(result.id))[1].items()):
            scheduler.on_trial_result(None, past, {AGE: number, OBJECTIVE: value})
    return scheduler


def _recipes(search: Search, trials: Sequence[Trial]) -> Iterator[Any]:
    """The recipes of the trials that can be built; of the sweep, where trials are decided later."""
    if not trials:
        yield from search.recipes.values()
    for trial in trials:
        with contextlib.suppress(DiffadaptError):
            yield search.work(trial).build()


def _name(trial: Any) -> str:
    return trial.trial_id

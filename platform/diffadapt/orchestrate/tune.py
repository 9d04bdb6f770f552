"""Trials side by side on Ray Tune, each in a process of its own that carries it out as a run of one machine does.

Tune schedules; nothing that is finished lives in it. Results are in the sweep's folder and in the store, so that a search goes on
from there after anything, and Tune's own files go with the process that made them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from diffadapt.core.config import field_types, override
from diffadapt.core.errors import RecipeError, ResourceError
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.resources import Layout, limit_threads
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.orchestrate.searchers import Listed, Source
from diffadapt.run.runner import ExecutionConfig, Runner
from diffadapt.run.sweep import OnResult, Search
from diffadapt.run.trial import TrialWork, run_trial
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import SearchConfig
from diffadapt.sweeps.trials import Trial

WATCH = "select.watch"
ROOM_SECONDS = 5.0
"""How old a count of the cluster's room may be."""
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report carries the result alone
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table even when told to be silent
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's relative paths mean the same in a trial
}
_STOP_SECONDS = "30"
"""How long a trial that was stopped may take to clean up before its process is given up instead of used again."""


class TuneFan:
    """Carries out trials on Ray Tune. ``config``: the recipe's execution settings."""

    name = "ray"

    def __init__(self, config: ExecutionConfig):
        self.config = config
        self.runner = RayRunner(config)

    def run(self, search: Search, trials: Sequence[Trial], known: Sequence[TrialResult], on_result: OnResult) -> None:
        """Carry out ``trials`` (for optuna: decide them, going on from ``known``) and hand each result to ``on_result`` once.

        RecipeError for a scheduler with a recipe that reports nothing between its start and end; ResourceError when no trial fits.
        """
        settings = search.space.search
        self.runner.prepare()
        if settings.scheduler == "pbt":
            from diffadapt.orchestrate.population import run_population

            run_population(search, trials, known, on_result, self.config, self.runner)
            return
        if settings.scheduler != "none":
            search = _watched(search)
        self._tune(search, _source(search, trials, known), _scheduler(settings), on_result)

    def close(self) -> None:
        """End what runs and, if we started Ray, its processes."""
        self.runner.close()

    def _tune(self, search: Search, source: Source, scheduler: Any, on_result: OnResult) -> None:
        from ray import tune

        from diffadapt.orchestrate.desk import Desk

        quiet_logs()
        settings, layout = search.space.search, self.runner.layout(shrink=True)
        desk = Desk(source, search.work, search.sweep, _Room(self.runner, settings), settings.retries, on_result)
        shared = ray.put(_Shared(_inner(self.config, layout), layout.train_workers > 1, settings.scheduler != "none"))
        trainable = tune.with_resources(tune.with_parameters(_trial, shared=[shared]), _resources(layout))
        folder = tempfile.mkdtemp(prefix="diffadapt-tune-")
        try:
            with _environment({**_TUNE_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(_room(layout, settings))}):
                tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(search_alg=desk, scheduler=scheduler, num_samples=-1, reuse_actors=True, trial_name_creator=_name, trial_dirname_creator=_name),
                    run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0, callbacks=[desk.news], failure_config=tune.FailureConfig(max_failures=0)),
                ).fit()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if desk.error is not None:
            raise desk.error


@dataclass(frozen=True)
class _Shared:
    """What all trials of a sweep are told."""

    execution: ExecutionConfig
    nested: bool
    epochs: bool


def _trial(config: dict[str, Any], shared: list) -> None:
    """One trial in its worker process; processes are used again, so that torch is imported once in each."""
    from ray import tune

    told: _Shared = ray.get(shared[0])
    work: TrialWork = config["work"]
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = _STOP_SECONDS
    limit_threads(max(1, told.execution.threads))

    def on_epoch(number: int, value: float) -> None:
        tune.report({"objective": value, "epoch": number})

    result = run_trial(work, lambda execution: _runner(execution, told), on_epoch=on_epoch if told.epochs else None)
    tune.report({"result": result.to_json().decode()})


def _runner(execution: ExecutionConfig, told: _Shared) -> Runner:
    """The runner inside a trial: this process, or Ray Train for fits of several workers."""
    mine = replace(told.execution, max_failed_fraction=execution.max_failed_fraction, resident_models=execution.resident_models)
    if told.nested:
        return RayRunner(mine)
    from diffadapt.run.local import LocalRunner

    return LocalRunner(mine)


def _inner(config: ExecutionConfig, layout: Layout) -> ExecutionConfig:
    """The execution settings inside a trial."""
    if layout.train_workers > 1:
        return replace(config, actors=layout.train_workers, device=layout.device)
    return replace(config, runner="local", address=None, device=layout.device, threads=layout.threads, train_workers=1)


def _resources(layout: Layout) -> dict[str, float]:
    """What a trial's process reserves; one that nests Ray Train next to nothing, or its workers would wait for its end."""
    if layout.train_workers > 1:
        return {"cpu": 0.01}
    return {"cpu": layout.actor.cpus, **({"gpu": layout.actor.gpus} if layout.actor.gpus else {})}


def _room(layout: Layout, settings: SearchConfig) -> int:
    """Trials side by side."""
    room = max(1, layout.lanes // layout.train_workers) if layout.train_workers > 1 else layout.actors
    return min(room, settings.concurrent or room)


class _Room:
    """Counts anew every ROOM_SECONDS how many trials fit."""

    def __init__(self, runner: RayRunner, settings: SearchConfig):
        self.runner, self.settings, self.count, self.when = runner, settings, 0, -ROOM_SECONDS

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self.when >= ROOM_SECONDS:
            with contextlib.suppress(ResourceError):  # nodes are lost: those that come instead have room again
                self.count = _room(self.runner.layout(shrink=True), self.settings)
            self.when = now
        return self.count


def _watched(search: Search) -> Search:
    """The search with recipes whose fits report the objective after each epoch."""
    settings = search.space.search
    for name, recipe in search.recipes.items():
        if WATCH not in field_types(recipe):
            raise RecipeError(f"The recipe {name} reports nothing between its start and its end, so that --search.scheduler {settings.scheduler} has nothing to judge by: leave the scheduler out.")
    return replace(search, recipes={n: override(r, {WATCH: settings.objective}) for n, r in search.recipes.items()})


def _source(search: Search, trials: Sequence[Trial], known: Sequence[TrialResult]) -> Source:
    return Listed(trials)


def _scheduler(settings: SearchConfig) -> Any:
    return None


def _name(trial: Any) -> str:
    return trial.trial_id


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value



"""Drive a sweep to its end: plan every trial, make what they share once on all devices, fan the rest out,
write table and report.

Everything finished is in the store and in the trials' folders, so the same command goes on after anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from diffadapt.core.errors import DiffadaptError, RecipeError, StoreError
from diffadapt.core.lease import alone
from diffadapt.core.redact import redact
from diffadapt.core.runs import PLANNED, Root
from diffadapt.core.schedule import finished
from diffadapt.core.stage import NodePlan
from diffadapt.run.epochs import Silent
from diffadapt.run.executor import one_line
from diffadapt.run.heartbeat import Heartbeat
from diffadapt.run.logs import parameters, track_begin, track_run
from diffadapt.run.progress import NodeProgress, Progress
from diffadapt.run.runner import ExecutionConfig, Runner
from diffadapt.run.trial import TrialWork, failed, run_trial
from diffadapt.run.work import Work
from diffadapt.sweeps.folder import Sweep, sweep_name
from diffadapt.sweeps.recommend import recommendation
from diffadapt.sweeps.result import TrialResult, to_parquet, values_text
from diffadapt.sweeps.space import Space, check
from diffadapt.sweeps.trials import Trial, build, enumerate_trials, make_trial
from diffadapt.sweeps.union import Economy, common, economy, merge
from diffadapt.train.trackers.base import demand_trackers

OnResult = Callable[[TrialResult], None]


@dataclass(frozen=True)
class Search:
    """What a fan is given: the space, the recipes (name -> value before the trials' changes), and where the
    sweep lives."""

    space: Space
    recipes: Mapping[str, Any]
    root: Root
    sweep: Sweep
    execution: ExecutionConfig

    def work(self, trial: Trial) -> TrialWork:
        return TrialWork(
            self.root.location,
            self.sweep.name,
            trial,
            self.recipes[trial.recipe],
            self.space.search.objective,
        )


class Fan(Protocol):
    """Carries out trials side by side."""

    name: str

    def run(
        self, search: Search, trials: Sequence[Trial], known: Sequence[TrialResult], on_result: OnResult
    ) -> None:
        """Carry out ``trials`` (for optuna: decide them, going on from ``known``) and hand each result to
        ``on_result`` once."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SweepPlan:
    """All trials with what they need: ``plans`` by trial id, ``broken``: trial id -> why it cannot be
    planned."""

    trials: tuple[Trial, ...]
    plans: Mapping[str, Mapping[str, NodePlan]]
    broken: Mapping[str, str]
    economy: tuple[Economy, ...]


def plan_sweep(space: Space, recipes: Mapping[str, Any], root: Root) -> SweepPlan:
    """Check the space against the recipes and plan every trial that is known beforehand; writes nothing."""
    check(space, recipes)
    if space.search.scheduler == "pbt":
        from diffadapt.run.population import check_population

        check_population(space, recipes)
    trials = enumerate_trials(space, list(recipes))
    plans: dict[str, Mapping[str, NodePlan]] = {}
    broken: dict[str, str] = {}
    for trial in trials:
        try:
            plans[trial.id] = build(recipes[trial.recipe], trial).pipeline().plan(root.store)
        except DiffadaptError as error:
            broken[trial.id] = one_line(error)
    if trials and not plans:
        raise RecipeError(
            f"No trial of the sweep can be planned; the first one: {next(iter(broken.values()))}"
        )
    every = list(plans.values())
    return SweepPlan(tuple(trials), plans, broken, tuple(economy(every, finished(merge(every), root.store))))


@dataclass(frozen=True)
class SweepRequest:
    """What is asked for: a space by its name, recipes by name, and what was changed in these (execution
    apart)."""

    name: str
    space: Space
    recipes: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = False
    """Whether nothing is printed of how far the work is that trials share."""


def run_sweep(
    request: SweepRequest,
    root: Root,
    execution: ExecutionConfig,
    make_runner: Callable[[ExecutionConfig], Runner],
    make_fan: Callable[[ExecutionConfig], Fan],
    say: Callable[[str], None],
    plan: SweepPlan | None = None,
) -> Sweep:
    """Carry out a sweep, or go on with it. ``make_runner`` makes what trials share, ``make_fan`` carries them
    out; ``say`` prints a line."""
    space, recipes = request.space, request.recipes
    demand_trackers(execution.trackers)
    for place in (root.store, root.sweeps):
        place.prepare()
    plan = plan or plan_sweep(space, recipes, root)
    sweep = Sweep(root, sweep_name(request.name, space, recipes))
    with alone(root.sweeps, sweep.name, f"The sweep {sweep.name}", say):
        sweep.unseal()
        _carry_out(sweep, request, execution, make_runner, make_fan, say, plan)
        sweep.seal()
    return sweep


def _carry_out(
    sweep: Sweep,
    request: SweepRequest,
    execution: ExecutionConfig,
    make_runner: Callable[[ExecutionConfig], Runner],
    make_fan: Callable[[ExecutionConfig], Fan],
    say: Callable[[str], None],
    plan: SweepPlan,
) -> None:
    started, space, recipes, root = time.time(), request.space, request.recipes, sweep.root
    sweep.describe(request.name, space, list(recipes), request.overrides, plan.economy)
    sweep.write(
        PLANNED,
        json.dumps(
            sorted(
                {p.path for nodes in plan.plans.values() for n in nodes.values() for p in n.shards if p.path}
            )
        ).encode(),
    )
    search = Search(space, recipes, root, sweep, execution)
    results = {r.id: r for r in sweep.results()}
    damaged = _damaged(sweep, [t for t in plan.trials if _ended(results.get(t.id))])
    open_trials = [
        t for t in plan.trials if t.id in plan.plans and (t.id in damaged or not _ended(results.get(t.id)))
    ]
    for trial in plan.trials:
        if trial.id in plan.broken and not _ended(results.get(trial.id)):
            results[trial.id] = failed(search.work(trial), plan.broken[trial.id])
            sweep.record(results[trial.id])
    learns = space.search.searcher == "optuna"
    at_hand = sum(map(_ended, results.values())) if learns else len(plan.trials) - len(open_trials)
    counts = {
        "trials": NodeProgress(
            space.search.trials * len(recipes) if learns else len(plan.trials), 0, hits=at_hand
        )
    }

    def beat() -> None:
        sweep.write_status(
            "running",
            {n: p.as_dict() for n, p in counts.items()},
            pid=os.getpid(),
            host=os.uname().nodename,
            started=started,
        )

    def on_result(result: TrialResult) -> None:
        results[result.id] = result
        counts["trials"].done += 1
        say(redact(_line(result, counts["trials"])))
        sweep.write("sweep.parquet", to_parquet(list(results.values()), list(space.axes)))

    state, error = "interrupted", ""
    told = parameters(", ".join(recipes), sweep.name.rpartition("-")[2], sweep.description()["search"])
    try:
        track_begin(sweep, execution.trackers, told)
        with Heartbeat(beat):
            together = _certain(search) if learns else [plan.plans[t.id] for t in open_trials]
            progress = Silent({}) if request.quiet else Progress({})
            _shared(sweep, search, together, make_runner, lambda line: say(redact(line)), progress)
            if open_trials or learns:
                fan = make_fan(execution)
                try:
                    fan.run(search, open_trials, list(results.values()), on_result)
                finally:
                    fan.close()
        state = "finished"
    except Exception as problem:
        state, error = "failed", str(problem)
        raise
    finally:
        sweep.write_status(
            state, {n: p.as_dict() for n, p in counts.items()}, started=started, error=redact(error)
        )
        track_run(sweep, execution.trackers, told, state)
    finish_sweep(sweep, list(space.axes), request.overrides, list(results.values()))


def finish_sweep(
    sweep: Sweep, axes: Sequence[str], overrides: Mapping[str, Any], results: Sequence[TrialResult]
) -> None:
    """Write the table, the recommended recipe and the report from the trials' results; no table where there
    are none."""
    if results:
        sweep.write("sweep.parquet", to_parquet(results, axes))
    if (best := recommendation(results, overrides)) is not None:
        sweep.write("recommended.json", best)
    from diffadapt.sweeps.report.page import write_report

    write_report(sweep)


def _ended(result: TrialResult | None) -> bool:
    """Finished or stopped by the scheduler; a failed trial is tried again."""
    return result is not None and result.status in ("finished", "stopped")


def _damaged(sweep: Sweep, trials: Sequence[Trial]) -> set[str]:
    """Of trials that have ended, those whose folders are not what they wrote: they are carried out again,
    which the store serves."""
    with ThreadPoolExecutor(1 if sweep.place.local else 16) as pool:
        found = pool.map(lambda trial: sweep.trial(trial).damage(), trials)
        return {trial.id for trial, names in zip(trials, found, strict=True) if names}


def _shared(
    sweep: Sweep,
    search: Search,
    plans: Sequence[Mapping[str, NodePlan]],
    make_runner: Any,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Make what the trials share. A shard that fails is left to the trials that need it, which will say
    why."""
    shared = common(plans)
    progress.nodes = {n: NodeProgress(len(p.shards), p.items) for n, p in shared.items() if p.stage.stored}
    work = Work(
        sweep, search.root.store, shared, progress, search.execution.max_failed_fraction, tolerant=True
    )
    try:
        work.run(lambda: make_runner(search.execution))
    except StoreError:
        raise
    except DiffadaptError as error:
        say(
            f"What the trials share could not be made whole ({one_line(error)}); trials that need it will try"
            " again."
        )
    for error in dict.fromkeys(text.splitlines()[0] for text in work.given_up.values() if text):
        say(f"What the trials share could not be made whole ({error}); trials that need it will try again.")


def _certain(search: Search) -> list[Mapping[str, NodePlan]]:
    """What every trial of a search that decides as it goes will need, twice over, as :func:`common` counts:
    shards and fits that no axis changes, found by planning one trial and the same one with every other value
    of each axis (of a range, with its ends).
    """
    space, store, result = search.space, search.root.store, []
    for name, recipe in search.recipes.items():
        first = {axis: a.ends()[0] for axis, a in space.axes.items()}
        points = [first] + [{**first, axis: v} for axis, a in space.axes.items() for v in a.ends()[1:]]
        plans = []
        for point in points:
            with contextlib.suppress(DiffadaptError):  # the trials will say so
                plans.append(build(recipe, make_trial(space, name, point, 0)).pipeline().plan(store))
        if plans:
            kept = set.intersection(*({p.digest for n in plan.values() for p in n.shards} for plan in plans))
            certain = {
                k: replace(n, shards=tuple(p for p in n.shards if p.digest in kept))
                for k, n in plans[0].items()
            }
            result += [certain, certain]
    return result


def _line(result: TrialResult, count: NodeProgress) -> str:
    what = values_text(result.values)
    if result.status == "failed":
        return f"trial {count.done + count.hits}/{count.shards}  {what}  failed: {result.error}"
    accuracy = f"  accuracy {result.accuracy:.1f}" if result.accuracy is not None else ""
    stopped = "  stopped early" if result.status == "stopped" else ""
    value = "" if result.objective is None else f"  {result.objective_name} {result.objective:.4f}"
    return f"trial {count.done + count.hits}/{count.shards}  {what}{value}{accuracy}{stopped}"


class LocalFan:
    """Trials one after the other in this process, without Ray."""

    name = "local"

    def __init__(self, make_runner: Callable[[ExecutionConfig], Runner]):
        self.make_runner = make_runner

    def run(
        self, search: Search, trials: Sequence[Trial], known: Sequence[TrialResult], on_result: OnResult
    ) -> None:
        if search.space.search.searcher == "optuna" or search.space.search.scheduler != "none":
            raise RecipeError(
                "Optuna, ASHA, Hyperband and population-based training run on Ray Tune: leave"
                " --execution.runner local out, or use grid or random search."
            )
        for trial in trials:
            on_result(run_trial(search.work(trial), self.make_runner))

    def close(self) -> None:
        return None

"""One trial of a sweep in one process: make what its recipe still lacks, judge the result, record it. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from diffadapt.core import ledger, record
from diffadapt.core.config import override
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.runs import Root, Run
from diffadapt.run.drive import drive
from diffadapt.run.executor import one_line
from diffadapt.run.progress import Progress
from diffadapt.run.runner import Runner
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.objective import accuracy, objective
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.trials import Trial, build

OnEpoch = Callable[[int, float], None]
"""(epoch of the whole trial from 1, objective): may raise to end the trial."""
MEMORY_HALVINGS = 3


@dataclass(frozen=True)
class TrialWork:
    """What a trial needs to know; travels to its process. ``recipe``: the recipe value before the trial's changes."""

    location: str
    sweep: str
    trial: Trial
    recipe: Any
    objective: str


def run_trial(work: TrialWork, runner_factory: Callable[[Any], Runner], *, on_epoch: OnEpoch | None = None, progress: Progress | None = None) -> TrialResult:
    """Carry out one trial and record its result. ``runner_factory(execution)`` gives the runner.

    A failure that the trial can cause ends it with status 'failed' and is recorded, never raised. One that runs out of
    memory is tried again with halved batches, which the result names in ``adjusted``.
    """
    root, started = Root(work.location), time.monotonic()
    sweep = Sweep(root, work.sweep)
    adjusted: dict[str, Any] = {}
    while True:
        try:
            recipe = override(build(work.recipe, work.trial), adjusted)
            made = _drive(work, root, sweep.trial(work.trial), recipe, runner_factory, on_epoch, progress)
            result = replace(made, seconds=time.monotonic() - started, adjusted=adjusted)
            break
        except DiffadaptError as error:
            smaller = halved(recipe, adjusted) if out_of_memory(str(error)) else {}
            if not smaller or len(adjusted) and _halvings(work, adjusted) >= MEMORY_HALVINGS:
                result = failed(work, one_line(error), time.monotonic() - started, adjusted)
                break
            adjusted = smaller
    sweep.record(result)
    return result


def failed(work: TrialWork, error: str, seconds: float = 0.0, adjusted: Mapping[str, Any] | None = None) -> TrialResult:
    """The result of a trial that could not be finished."""
    t = work.trial
    return TrialResult(t.id, t.number, t.recipe, t.values, t.changes, "failed", work.objective, seconds=seconds, adjusted=dict(adjusted or {}), error=error)


def _drive(work: TrialWork, root: Root, place: Run, recipe: Any, runner_factory: Any, on_epoch: OnEpoch | None, progress: Progress | None) -> TrialResult:
    pipeline = recipe.pipeline()
    progress = progress or Silent({})
    if on_epoch is not None:
        progress = _Watched(progress, on_epoch)
    run = drive(work.trial.recipe, recipe, pipeline, root, lambda: runner_factory(recipe.execution), progress=progress, overrides=work.trial.changes, run=place, brief=True)
    return judge(work, pipeline, run, progress)


def judge(work: TrialWork, pipeline: Pipeline, run: Run, progress: Progress) -> TrialResult:
    """The result of a finished trial from what its run folder and the store hold."""
    root, trial = run.root, work.trial
    plans = pipeline.plan(root.store)
    rows, scores = pipeline.result(), run.scores()
    members = {m for r in rows for m in r.members}
    predictions = {m: record.predictions_by_key([root.store.load(p.path or "") for p in plans[m].shards]) for m in members}
    measured = ledger.by_digest(root.ledger)
    needed = {p.digest for plan in plans.values() if plan.stage.stored for p in plan.shards}
    known = [measured[d] for d in needed if d in measured]
    return TrialResult(
        trial.id, trial.number, trial.recipe, trial.values, trial.changes, "finished", work.objective,
        objective=objective(work.objective, rows, predictions, scores), accuracy=accuracy(rows, scores), method=rows[0].name if rows else "",
        scores=[[s.method, s.seed, s.group, s.metric, s.value] for s in scores],
        device_hours=sum(m.device_seconds for m in known) / 3600 if known else None,
        device=", ".join(sorted({m.device for m in known if m.device})),
        made=sum(n.done for n in progress.nodes.values()), found=sum(n.hits for n in progress.nodes.values()),
        epochs=list(getattr(progress, "values", ())), selection="oracle" if any(r.selection == "oracle" for r in rows) else "last",
    )  # fmt: skip


def out_of_memory(text: str) -> bool:
    """Whether an error's text tells of memory that ran out."""
    lower = text.lower()
    return any(sign in lower for sign in ("out of memory", "outofmemory", "cannot allocate memory", "memoryerror", "bad_alloc"))


def halved(recipe: Any, adjusted: Mapping[str, Any]) -> dict[str, Any]:
    """Every batch size of the recipe's training halved, at least 2; empty when none can be halved any more."""
    found = dict(adjusted)
    changed = False
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        size = getattr(value, "batch_size", None) if is_dataclass(value) else None
        if isinstance(size, int) and size >= 4 and hasattr(value, "epochs"):
            found[f"{f.name}.batch_size"] = size // 2
            changed = True
    return found if changed else {}


def _halvings(work: TrialWork, adjusted: Mapping[str, Any]) -> int:
    from math import log2

    before = build(work.recipe, work.trial)
    return max((round(log2(getattr(before, k.partition(".")[0]).batch_size / v)) for k, v in adjusted.items()), default=0)


class Silent(Progress):
    """Counts, and prints nothing."""

    def show(self, name: str, force: bool = False) -> None:
        pass

    def say(self, sentence: str) -> None:
        pass


class _Watched(Silent):
    """Passes on the scalar ``objective`` that fits report after each epoch (SelectConfig.watch)."""

    def __init__(self, inner: Progress, on_epoch: OnEpoch):
        super().__init__(inner.nodes)
        self.values: list[float] = []
        self._on_epoch = on_epoch

    def fit(self, name: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        super().fit(name, step, total, scalars)
        if "objective" in scalars:
            self.values.append(float(scalars["objective"]))
            self._on_epoch(len(self.values), self.values[-1])

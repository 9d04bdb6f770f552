"""One trial of a sweep in one process: make what its recipe still lacks, judge the result, record it. Knows
no Ray."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from diffadapt.core import interrupts, ledger, record
from diffadapt.core.config import override
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.manifest import digest_of
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.runs import Root, Run
from diffadapt.core.stage import Stage
from diffadapt.report.own.diversity import FILE as DIVERSITY
from diffadapt.report.own.diversity import class_diversity
from diffadapt.report.provenance import optional_json
from diffadapt.run.drive import drive
from diffadapt.run.epochs import Epochs, OnEpoch, Silent, Watched, read_epochs
from diffadapt.run.executor import one_line
from diffadapt.run.logs import parameters, track_run
from diffadapt.run.progress import Progress
from diffadapt.run.runner import Runner
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.objective import accuracy, objective, reads_predictions
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.trials import Trial, build

MEMORY_HALVINGS = 3
MEMORY_SIGNS = (
    "out of memory",
    "outofmemory",
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "memoryerror",
    "bad_alloc",
)


@dataclass(frozen=True)
class TrialWork:
    """What a trial needs to know; travels to its process. ``recipe``: the recipe value before the trial's
    changes."""

    location: str
    sweep: str
    trial: Trial
    recipe: Any
    objective: str
    adjusted: Mapping[str, Any] = field(default_factory=dict)
    """Fields that were changed already because memory ran out in an earlier try."""

    def build(self, adjusted: Mapping[str, Any] | None = None) -> Any:
        """The trial's recipe with ``adjusted`` (None: its own)."""
        return override(build(self.recipe, self.trial), self.adjusted if adjusted is None else adjusted)


def run_trial(
    work: TrialWork,
    runner_factory: Callable[[Any], Runner],
    *,
    on_epoch: OnEpoch | None = None,
    progress: Progress | None = None,
) -> TrialResult:
    """Carry out one trial and record its result. ``runner_factory(execution)`` gives the runner.

    A failure that the trial can cause ends it with status 'failed' and is recorded, never raised. A stage
    that runs out of memory is tried again with its batch halved, at most MEMORY_HALVINGS times, which the
    result names in ``adjusted``.
    Raises StoreError when the result cannot be recorded, and what ``on_epoch`` raises.
    """
    root, started = Root(work.location), time.monotonic()
    sweep = Sweep(root, work.sweep)
    adjusted = dict(work.adjusted)
    for left in range(MEMORY_HALVINGS, -1, -1):
        recipe, pipeline = None, None
        try:
            recipe = work.build(adjusted)
            pipeline = recipe.pipeline()
            made = _drive(
                work,
                root,
                sweep.trial(work.trial),
                recipe,
                pipeline,
                runner_factory,
                on_epoch and Epochs(sweep.trial(work.trial), pipeline, adjusted, on_epoch),
                progress,
            )
            result = replace(made, seconds=time.monotonic() - started, adjusted=adjusted)
            break
        except Exception as error:
            interrupts.check()
            message = (
                one_line(error)
                if isinstance(error, DiffadaptError)
                else f"{type(error).__name__}: {one_line(error)}"
            )
            smaller = (
                halved(recipe, adjusted, failed_stage(pipeline, message))
                if left and recipe is not None and out_of_memory(message)
                else {}
            )
            if not smaller:
                result = failed(work, message, time.monotonic() - started, adjusted)
                break
            adjusted = smaller
        free_memory()  # outside the handler: until its end the traceback holds the batch that did not fit
    sweep.record(result)
    return result


def failed(
    work: TrialWork, error: str, seconds: float = 0.0, adjusted: Mapping[str, Any] | None = None
) -> TrialResult:
    """The result of a trial that could not be finished."""
    t = work.trial
    return TrialResult(
        t.id,
        t.number,
        t.recipe,
        t.values,
        t.changes,
        "failed",
        work.objective,
        seconds=seconds,
        adjusted=dict(adjusted or {}),
        error=error,
    )


def stopped(work: TrialWork, seconds: float) -> TrialResult:
    """The result of a trial that a scheduler ended; its objective is that of its last epoch.

    What it had made is in the store; device hours count what came to its end, and of the fit that did not,
    nothing.
    """
    t, root = work.trial, Root(work.location)
    adjusted, epochs = read_epochs(Sweep(root, work.sweep).trial(t))
    values = [epochs[n] for n in sorted(epochs)]
    return TrialResult(
        t.id,
        t.number,
        t.recipe,
        t.values,
        t.changes,
        "stopped",
        work.objective,
        objective=values[-1] if values else None,
        epochs=values,
        seconds=seconds,
        adjusted=adjusted,
        **hours(root, work.build(adjusted).pipeline().plan(root.store)),
    )


def _drive(
    work: TrialWork,
    root: Root,
    place: Run,
    recipe: Any,
    pipeline: Pipeline,
    runner_factory: Any,
    epochs: Epochs | None,
    progress: Progress | None,
) -> TrialResult:
    progress = progress or Silent({})
    if epochs is not None:
        progress = Watched(progress, epochs)
    run = drive(
        work.trial.recipe,
        recipe,
        pipeline,
        root,
        lambda: runner_factory(recipe.execution),
        progress=progress,
        overrides=work.trial.changes,
        run=place,
    )
    result, manifest = judge(work, pipeline, run, progress), run.manifest()
    track_run(
        run,
        recipe.execution.trackers,
        parameters(work.trial.recipe, digest_of(manifest), manifest["config"]),
        summary={"objective": result.objective, "accuracy": result.accuracy},
    )
    return replace(result, epochs=epochs.values() if epochs else [])


def judge(work: TrialWork, pipeline: Pipeline, run: Run, progress: Progress) -> TrialResult:
    """The result of a finished trial from what its run folder and the store hold."""
    root, trial = run.root, work.trial
    plans = pipeline.plan(root.store)
    rows, scores = pipeline.result(), run.scores()
    members = {m for r in rows for m in r.members} if reads_predictions(work.objective) else ()
    predictions = {
        m: record.predictions_by_key([root.store.load(p.path or "") for p in plans[m].shards])
        for m in members
    }
    return TrialResult(
        trial.id,
        trial.number,
        trial.recipe,
        trial.values,
        trial.changes,
        "finished",
        work.objective,
        objective=objective(work.objective, rows, predictions, scores),
        accuracy=accuracy(rows, scores),
        method=rows[0].name if rows else "",
        scores=[[s.method, s.seed, s.group, s.metric, s.value] for s in scores],
        made=sum(n.done for n in progress.nodes.values()),
        found=sum(n.hits for n in progress.nodes.values()),
        selection="oracle" if any(r.selection == "oracle" for r in rows) else "last",
        diversity=class_diversity(optional_json(run, DIVERSITY)),
        **hours(root, plans),
    )


def hours(root: Root, plans: Mapping[str, Any]) -> dict[str, Any]:
    """``device_hours`` and ``device`` of all shards and fits of ``plans`` that the ledger knows."""
    measured = ledger.by_digest(root.ledger)
    known = [
        measured[d]
        for d in {p.digest for plan in plans.values() if plan.stage.stored for p in plan.shards}
        if d in measured
    ]
    return {
        "device_hours": (
            sum(m.device_seconds for m in sorted(known, key=lambda m: m.digest)) / 3600 if known else None
        ),
        "device": ", ".join(sorted({m.device for m in known if m.device})),
    }


def out_of_memory(text: str) -> bool:
    """Whether an error's text tells of memory that ran out, of the device or the host."""
    lower = text.lower()
    return any(sign in lower for sign in MEMORY_SIGNS)


def failed_stage(pipeline: Pipeline | None, message: str) -> Stage | None:
    """The stage of the node that ``message`` names first, as errors of a run do."""
    name = message.partition(": ")[0]
    return next((n.stage for n in pipeline.nodes if n.name == name), None) if pipeline else None


def halved(recipe: Any, adjusted: Mapping[str, Any], stage: Stage | None = None) -> dict[str, Any]:
    """``adjusted`` with the batch sizes that ``stage`` works with halved; empty when none can be halved any
    more.

    ``recipe`` is the one that failed. Without a stage every batch of a training is halved. Training keeps at
    least two images a worker, because of batch normalisation, and a multiple of the workers.
    """
    config = getattr(recipe, "execution", None)
    workers = max(1, getattr(config, "train_workers", 1))
    used = (
        [value for f in fields(stage) if _batch(value := getattr(stage, f.name))] if stage is not None else []
    )  # type: ignore[arg-type]
    result = dict(adjusted)
    for f in fields(recipe):
        part = getattr(recipe, f.name)
        size = _batch(part)
        trains = hasattr(part, "epochs")
        meant = (
            any(type(u) is type(part) and _batch(u) == size for u in used) if stage is not None else trains
        )
        if (
            size
            and meant
            and (size // 2 >= 2 * workers and size // 2 % workers == 0 if trains else size >= 2)
        ):
            result[f"{f.name}.batch_size"] = size // 2
    return result if result != dict(adjusted) else {}


def _batch(value: Any) -> int:
    size = getattr(value, "batch_size", 0) if is_dataclass(value) else 0
    return size if isinstance(size, int) else 0


def free_memory() -> None:
    """Give back what a failed try left behind, on the host and on the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

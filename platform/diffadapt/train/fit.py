"""Base of the stages that train a model. Nothing here imports torch before a training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole

if TYPE_CHECKING:
    from diffadapt.train.run import TrainingRun


@dataclass
class Trained:
    """What a training gives."""

    scalars: Mapping[str, Any]
    """What the loop returned; what depends on the machine alone is not recorded (Fit.timings)."""
    save: Callable[[dict[str, Any]], object]
    """Writes the job's output folder, called on rank 0 with ``scalars`` and ``counts``."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, in numbers."""
    failures: Iterable[Failure] | None = None
    """Items that were left out because they could not be read, or made by an earlier stage; None: it reads
    none."""
    warnings: list[str] | None = None
    """None: such a training has nothing to warn of, and its metrics no ``warnings``."""


@dataclass(frozen=True)
class Fit(Stage):
    """A stage that reads its inputs whole, trains one model and writes it as one folder. A subclass says how
    to :meth:`train`; metrics, resume and who writes are the same for all."""

    fit_stage = True
    timings: ClassVar[tuple[str, ...]] = ("step_seconds", "images_per_second", "resumed_from")
    """Scalars that are left out of the metrics, so that equal work has equal files."""

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def train(self, job: FitJob) -> Trained:
        """Read the inputs and train, going on from the newest checkpoint of :meth:`run`."""
        raise NotImplementedError

    def run(self, job: FitJob, failures: Iterable[Failure] = (), **more: Any) -> TrainingRun:
        """How the loop runs this job: its reporter and checkpoints, readers where the device would wait for
        them, and ``more`` (chooser, watcher). ``failures``: what it goes without (:meth:`FitJob.count`)."""
        from diffadapt.train.checkpoints import Checkpoints
        from diffadapt.train.run import TrainingRun

        job.count(failures)
        readers = 0 if job.context.device == "cpu" else job.context.readers
        given = {"readers": readers, "until": job.until, **more}
        return TrainingRun(job.reporter, Checkpoints(job.checkpoints), **given)

    def fit(self, job: FitJob) -> dict[str, Any]:
        trained = self.train(job)
        metrics = {k: v for k, v in trained.scalars.items() if k not in self.timings}
        metrics |= trained.counts
        if job.reporter.rank == 0:
            trained.save(metrics)
        if trained.warnings is not None:
            metrics["warnings"] = trained.warnings
        if trained.failures is not None:
            metrics["quarantined"] = [[f.key, f.reason] for f in trained.failures]
        return metrics


def too_few(has: str, count: int, unit: str, batch_size: int, of: str = "") -> list[str]:
    """The warning that ``count`` of ``unit`` are less than a batch, or none; ``has`` is the sentence's
    beginning, ``of`` says which batches."""
    if count >= batch_size:
        return []
    return [
        f"{has} {count} {unit}{'' if count == 1 else 's'}, fewer than a batch of {batch_size}, so that every"
        f" batch{of} holds some of them repeatedly."
    ]

"""One fit in one process group: the same code under the local runner and in every Ray Train worker."""

from __future__ import annotations

import json
import os
import posixpath
import time
from collections.abc import Mapping
from typing import Any

from diffadapt.core import interrupts
from diffadapt.core.artifact import Failure, Receipt
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.files import scratch
from diffadapt.core.redact import scrub
from diffadapt.core.schedule import Task
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import FitJob, InputFile, Stage, WorkContext
from diffadapt.core.store import Store
from diffadapt.run.executor import Executor, device_name, evidence, fetch_folder, one_line
from diffadapt.run.readers import readers_for

METRICS = "metrics.json"


def quarantined_by(metrics: Mapping[str, Any]) -> list[Failure]:
    """The items that a fit could not use, as it recorded them under ``quarantined``."""
    return [Failure(key, reason) for key, reason in metrics.get("quarantined", ())]


def recorded_failures(store: Store, path: str) -> list[Failure]:
    """The same of a finished fit in the store."""
    return quarantined_by(recorded_metrics(store, path))


def recorded_metrics(store: Store, path: str) -> dict[str, Any]:
    """The metrics of a finished fit in the store."""
    return Sealed(store, path).read_json(METRICS)


def run_fit(
    task: Task,
    stages: Mapping[str, Stage],
    store: Store,
    reporter: Any,
    *,
    threads: int = 1,
    log_dir: str | None = None,
) -> Receipt:
    """Carry out one fit task on this rank and, on rank 0, commit its folder: files first, ``_SUCCESS`` with
    their checksums last.

    Never raises for what the fit can cause; the receipt then says ``failed`` and checkpoints stay for the
    next try.
    """
    start, failures = time.perf_counter(), ()
    name = f"{os.uname().nodename}:{os.getpid()}"
    if Sealed(store, task.path).exists():
        return Receipt(
            task.node,
            task.shard.key,
            task.digest,
            "hit",
            task.shard.items,
            tuple(recorded_failures(store, task.path)),
            worker=name,
        )
    try:
        with scratch("fit") as output:
            resumed = bool(store.list(posixpath.join(".checkpoints", task.digest)))
            metrics = stages[task.node].fit(make_job(task, stages, store, reporter, output, threads, log_dir))
            interrupts.check()
            if reporter.rank == 0:
                _commit(store, task, output, metrics)
            reporter.barrier()
        return Receipt(
            task.node,
            task.shard.key,
            task.digest,
            "made",
            task.shard.items,
            tuple(quarantined_by(metrics)),
            time.perf_counter() - start,
            name,
            warnings=tuple(metrics.get("warnings", ())),
            device=device_name(str(reporter.device)),
            devices=reporter.world_size,
            resumed=resumed,
        )
    except DiffadaptError as error:
        interrupts.check()
        message = f"{type(error).__name__}: {one_line(error)}"
        failures = tuple(getattr(error, "failures", ()))
    except Exception as error:
        interrupts.check()
        message = evidence(error)
    return Receipt(
        task.node,
        task.shard.key,
        task.digest,
        "failed",
        0,
        failures,
        time.perf_counter() - start,
        name,
        message,
    )


def make_job(
    task: Task,
    stages: Mapping[str, Stage],
    store: Store,
    reporter: Any,
    output: str,
    threads: int,
    log_dir: str | None,
) -> FitJob:
    """What the stage of ``task`` is given to fit, its result to be written to the folder ``output``."""
    reader = Executor(stages, store, device="cpu", threads=threads)

    def inputs(node: str) -> list[InputFile]:
        return [f for f in task.inputs if f.node == node]

    return FitJob(
        node=task.node,
        inputs=inputs,
        store=store,
        checkpoints=_checkpoint_url(store, task),
        output=output,
        context=WorkContext(
            str(reporter.device),
            {f.node: fetch_folder(store, f) for f in task.inputs if f.fitted},
            threads=threads,
            readers=readers_for(str(reporter.device), threads),
            kinds={f.node: f.kind for f in task.inputs if f.fitted},
        ),
        reporter=reporter,
        read=reader.read,
        log_dir=log_dir,
        files=task.inputs,
        items=task.shard.items,
        max_failed=task.max_failed,
    )


def _checkpoint_url(store: Store, task: Task) -> str:
    return posixpath.join(store.root, ".checkpoints", task.digest)


def _commit(store: Store, task: Task, output: str, metrics: Mapping[str, Any]) -> None:
    with open(os.path.join(output, METRICS), "w", encoding="utf-8") as handle:
        json.dump(scrub(metrics), handle, indent=1, sort_keys=True)
    folder = Sealed(store, task.path)
    if not folder.exists():  # another driver may have been faster; what it committed stays as it is
        folder.commit(task.digest, output)
    store.remove(posixpath.join(".checkpoints", task.digest))

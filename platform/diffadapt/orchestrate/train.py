"""Fits on Ray Train: one training group carries all fits of a wave, so that its start-up is paid once.

Checkpoints are diffadapt's own, in the store; Ray Train restarts a group that lost a worker, and the loop goes on from
the newest checkpoint. So does any later run, on whatever runner.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import ray
import ray.exceptions

from diffadapt.core.artifact import Receipt
from diffadapt.core.identity import digest
from diffadapt.core.schedule import Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.journal import Mailbox, here
from diffadapt.orchestrate.resources import Layout, limit_threads
from diffadapt.run.runner import OnFitProgress, OnReceipt

MAX_FAILURES = 2
POLL_SECONDS = 0.2
PROGRESS_SECONDS = 0.5
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_METRICS_ENABLED": "0"}


class FitError(RuntimeError):
    """A worker's fit failed in a way that a restart may mend; ends the group so that Ray Train restarts it."""


def run_fits(
    fits: Sequence[Task],
    stages: Mapping[str, Stage],
    store: Store,
    log_dir: str,
    layout: Layout,
    on_receipt: OnReceipt,
    on_progress: OnFitProgress,
) -> None:
    """Carry out independent fits: each on ``layout.train_workers`` workers, or side by side when that is one.

    Every fit gets one receipt; progress arrives while it trains. A fit whose group was lost more than MAX_FAILURES times
    gets a ``failed`` receipt.
    """
    mailbox = Mailbox.options(scheduling_strategy=here()).remote()
    waiting = {t.digest: t for t in fits}
    work = {
        "fits": list(fits), "stages": dict(stages), "store": store, "log_dir": log_dir, "mailbox": mailbox,
        "data_parallel": layout.train_workers > 1, "threads": layout.threads,
    }  # fmt: skip
    workers = layout.train_workers if layout.train_workers > 1 else min(layout.lanes, len(fits))
    name = f"fits-{digest(sorted(waiting), 16)}"

    def deliver() -> None:
        for kind, *content in ray.get(mailbox.drain.remote()):
            if kind == "progress":
                on_progress(*content)
            else:
                waiting.pop(content[0].digest, None)
                on_receipt(content[0])

    group = _train.options(scheduling_strategy=here()).remote(work, workers, layout, name)
    try:
        while not ray.wait([group], timeout=POLL_SECONDS)[0]:
            deliver()
        error = ray.get(group)
    except ray.exceptions.RayError as lost:
        error = str(lost).strip().splitlines()[-1]
    except BaseException:
        ray.cancel(group, force=True)
        raise
    deliver()
    for task in waiting.values():
        text = ray.get(mailbox.last_error.remote(task.digest)) or f"ResourceError: the training workers were lost: {error}"
        on_receipt(Receipt(task.node, task.shard.key, task.digest, "failed", 0, error=text))
    store.remove(f".train/{name}")
    ray.kill(mailbox)


@ray.remote(num_cpus=0, max_retries=0)
def _train(work: dict[str, Any], workers: int, layout: Layout, name: str) -> str:
    """Run the group in a process of its own, which leaves the driver free to show progress and to be interrupted."""
    os.environ.update(_TRAIN_ENVIRONMENT)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    quiet_logs()
    gpu = layout.device != "cpu"
    resources = {"CPU": layout.trainer.cpus, **({"GPU": layout.trainer.gpus} if gpu else {})}
    store: Store = work["store"]
    trainer = TorchTrainer(
        _loop,
        train_loop_config=work,
        torch_config=TorchConfig(backend="nccl" if gpu and work["data_parallel"] else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=store.join(".train"),
            storage_filesystem=None if store.local else _arrow_filesystem(store),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # the driver turns what is unfinished into receipts
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return ""


def _arrow_filesystem(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))


def _loop(work: dict[str, Any]) -> None:
    """What each worker of the group does: its share of the fits, or its rank of every fit."""
    import ray.train
    import ray.train.torch

    from diffadapt.run.fit import run_fit
    from diffadapt.run.logs import TensorBoardFolder

    limit_threads(work["threads"])
    context = ray.train.get_context()
    rank, size, mailbox = context.get_world_rank(), context.get_world_size(), work["mailbox"]
    device = ray.train.torch.get_device()
    mine = work["fits"] if work["data_parallel"] else work["fits"][rank::size]
    done = 0
    for task in mine:
        if ray.get(mailbox.is_settled.remote(task.digest)):
            continue
        writes = rank == 0 or not work["data_parallel"]
        with TensorBoardFolder(work["log_dir"], task.node) if writes else nullcontext() as folder:
            reporter = ray_train_reporter(device, folder, mailbox, task.node, work["data_parallel"])
            receipt = run_fit(task, work["stages"], work["store"], reporter, threads=work["threads"], log_dir=folder)
        _settle(receipt, mailbox, writes, work["data_parallel"])
        done += 1
    ray.train.report({"fits": done})


def _settle(receipt: Receipt, mailbox: Any, writes: bool, data_parallel: bool) -> None:
    """Tell the driver; a failed rank of several must end the group, because the others wait for it."""
    if receipt.status != "failed":
        if writes:
            ray.get(mailbox.receipt.remote(receipt))
        return
    final = "\n" not in receipt.error  # a sentence for the user; a traceback may be the echo of a lost peer
    if final or not data_parallel:
        ray.get(mailbox.receipt.remote(receipt))
    else:
        ray.get(mailbox.error.remote(receipt.digest, receipt.error))
    if data_parallel:
        raise FitError(receipt.error.splitlines()[0])


def ray_train_reporter(device: Any, log_dir: str | None, mailbox: Any, node: str, data_parallel: bool) -> Any:
    """A training reporter of this worker: its rank of the process group, or alone; news goes to ``mailbox``."""
    from diffadapt.train.reporter import DistributedReporter, LocalReporter

    last = 0.0

    def on_report(step: int, total: int, scalars: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if step == total or now - last >= PROGRESS_SECONDS:
            last = now
            mailbox.progress.remote(node, step, total, {k: float(v) for k, v in scalars.items()})

    return (DistributedReporter if data_parallel else LocalReporter)(device, log_dir, on_report)

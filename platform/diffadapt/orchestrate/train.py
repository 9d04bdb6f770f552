"""What the processes of a training group do: one group carries all fits of a wave, so that its start-up is
paid once.

Checkpoints are diffadapt's own, in the store, so that the next group, or a later run on whatever runner, goes
on from them.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from diffadapt.core.artifact import Receipt
from diffadapt.core.schedule import Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.resources import Layout, limit_threads

MAX_RETRIES = 2
START_SECONDS = 1800.0
"""How long a training group waits for nodes that the cluster can host: they may have to be started, or be
taken by others."""
PROGRESS_SECONDS = 0.5
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's relative paths mean the same in a training worker
}  # fmt: skip


class FitError(RuntimeError):
    """A worker's fit failed in a way that a restart may mend; ends the group so that another follows."""


@dataclass(frozen=True)
class Work:
    """What travels to the workers of a wave."""

    fits: tuple[Task, ...]
    stages: Mapping[str, Stage]
    store: Store
    log_dir: str
    mailbox: Any
    data_parallel: bool
    threads: int


def outcome(job: Any) -> str:
    """The error of a finished job, in one line; empty when there was none."""
    try:
        error: Any = ray.get(job)
        return error
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]


def start_plain(work: Work, layout: Layout) -> Any:
    """The one fit of ``work`` as an ordinary task, which reserves an accelerator only if its stage asks for
    one."""
    (task,) = work.fits
    device = "cpu" if work.stages[task.node].resources() == "cpu" else layout.device
    share = layout.trainer if device != "cpu" else dataclasses.replace(layout.trainer, gpus=0.0)
    # DEFAULT: inside a trial of a sweep Ray would otherwise look for room in what the trial reserves, next to
    # nothing.
    return _plain_fit.options(num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="DEFAULT").remote(
        work, device
    )


@ray.remote(max_retries=MAX_RETRIES)
def _plain_fit(work: Work, device: str) -> str:
    """A fit that trains nothing (decisions of filters, pictures) or needs no accelerator."""
    limit_threads(work.threads)
    for task in work.fits:
        _carry_out(task, dataclasses.replace(work, data_parallel=False), device, writes=True)
    return ""


@ray.remote(num_cpus=0)
class TrainHost:
    """Runs training groups in a process of its own, which leaves the driver free to show progress and be
    interrupted."""

    def fit(self, work: Work, layout: Layout, name: str, workers: int) -> str:
        """One TorchTrainer of ``workers`` for all fits of ``work``; returns its error in one line, or an
        empty string."""
        os.environ.update(_TRAIN_ENVIRONMENT, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=str(START_SECONDS))
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        quiet_logs()
        gpu = layout.device != "cpu"
        resources = {"CPU": layout.trainer.cpus, **({"GPU": layout.trainer.gpus} if gpu else {})}
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"work": work, "group": name},
            torch_config=TorchConfig(backend="nccl" if gpu and work.data_parallel else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=name,
                storage_path=work.store.join(".train"),
                storage_filesystem=None if work.store.local else arrow_filesystem(work.store),
                failure_config=FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=0
                ),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # the driver turns what is unfinished into receipts
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return ""


def arrow_filesystem(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))


def _loop(config: dict[str, Any]) -> None:
    """What each worker of the group does: its share of the fits, or its rank of every fit."""
    import ray.train
    import ray.train.torch

    work: Work = config["work"]
    limit_threads(work.threads)
    if not work.data_parallel:
        _leave_process_group()
    context = ray.train.get_context()
    work.mailbox.begin.remote(config["group"])
    rank, size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    mine = work.fits if work.data_parallel else work.fits[rank::size]
    done = sum(_carry_out(task, work, device, writes=rank == 0 or not work.data_parallel) for task in mine)
    ray.train.report({"fits": done})


def _leave_process_group() -> None:
    """Workers with a fit each must not meet in torch.distributed: a loss that gathers its batch would mix
    strangers, or wait for ever."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _carry_out(task: Task, work: Work, device: Any, *, writes: bool) -> bool:
    """One fit on this worker, unless it is settled. The worker that ``writes`` keeps logs and tells the
    driver."""
    from diffadapt.run.fit import run_fit
    from diffadapt.run.logs import TensorBoardFolder

    if ray.get(work.mailbox.is_settled.remote(task.digest)):
        return False
    with TensorBoardFolder(work.log_dir, task.node) if writes else nullcontext() as folder:
        reporter = ray_train_reporter(device, folder, work.mailbox, task.node, work.data_parallel)
        receipt = run_fit(task, work.stages, work.store, reporter, threads=work.threads, log_dir=folder)
    _settle(receipt, work.mailbox, writes, work.data_parallel)
    return True


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
    """A training reporter of this worker: its rank of the process group, or alone; news goes to
    ``mailbox``."""
    from diffadapt.train.reporter import DistributedReporter, LocalReporter

    last = 0.0

    def on_report(step: int, total: int, scalars: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if (
            step == total or "objective" in scalars or now - last >= PROGRESS_SECONDS
        ):  # a scheduler waits for each epoch's objective
            last = now
            mailbox.progress.remote(node, step, total, {k: float(v) for k, v in scalars.items()})

    return (DistributedReporter if data_parallel else LocalReporter)(device, log_dir, on_report)

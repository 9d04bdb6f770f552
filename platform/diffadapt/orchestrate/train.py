"""What the processes of a training group do: one group carries all fits of a wave, so that its start-up is
paid once. Fits on several workers each are a group of Ray Train; fits on one worker each are ordinary tasks,
in processes that Ray has warm.

Checkpoints are diffadapt's own, in the store, so that the next group, or a later run on whatever runner, goes
on from them.
"""

from __future__ import annotations

import dataclasses
import os
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
from diffadapt.orchestrate.resources import Layout, Share
from diffadapt.run.executor import limit_threads

MAX_RETRIES = 2
START_SECONDS = 1800.0
"""How long a training group waits for nodes that the cluster can host: they may have to be started, or be
taken by others."""
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
    trackers: tuple[str, ...] = ()


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
    return _lane(device, share, MAX_RETRIES).remote(
        dataclasses.replace(work, data_parallel=False), device, ""
    )


def start_lanes(work: Work, layout: Layout, name: str, lanes: int) -> list[Any]:
    """The fits of ``work``, one worker each, over ``lanes`` tasks. Ray starts none of them again: a group
    that lost some is followed by another."""
    return [
        _lane(layout.device, layout.trainer, 0).remote(
            dataclasses.replace(work, fits=work.fits[lane::lanes]), layout.device, name
        )
        for lane in range(lanes)
    ]


def _lane(device: str, share: Share, retries: int) -> Any:
    """:func:`_fits` with what it reserves. A process that had an accelerator ends with its task, because what
    it keeps there is freed by nothing else."""
    task = _fits if device == "cpu" else _fits_on_accelerator
    return task.options(
        num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="DEFAULT", max_retries=retries
    )


def _carry_out_all(work: Work, device: str, group: str) -> str:
    """Fits one after the other in this process."""
    limit_threads(work.threads)
    work.mailbox.begin.remote(group)
    for task in work.fits:
        _carry_out(task, work, device, writes=True)
    return ""


_fits = ray.remote(_carry_out_all)
_fits_on_accelerator = ray.remote(max_calls=1)(_carry_out_all)


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
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
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
    """What each worker of the group does: its rank of every fit."""
    import ray.train
    import ray.train.torch

    work: Work = config["work"]
    limit_threads(work.threads)
    work.mailbox.begin.remote(config["group"])
    rank, device = ray.train.get_context().get_world_rank(), ray.train.torch.get_device()
    ray.train.report({"fits": sum(_carry_out(task, work, device, writes=rank == 0) for task in work.fits)})


def _carry_out(task: Task, work: Work, device: Any, *, writes: bool) -> bool:
    """One fit on this worker, unless it is settled. The worker that ``writes`` keeps logs and tells the
    driver."""
    from diffadapt.run.fit import run_fit
    from diffadapt.run.logs import Logs

    if ray.get(work.mailbox.is_settled.remote(task.digest)):
        return False
    with Logs(work.log_dir, task.node, work.trackers) if writes else nullcontext() as logs:
        reporter = ray_train_reporter(
            device, logs.trackers if logs else None, work.mailbox, task.node, work.data_parallel
        )
        receipt = run_fit(
            task,
            work.stages,
            work.store,
            reporter,
            threads=work.threads,
            log_dir=logs.folder if logs else None,
        )
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


def ray_train_reporter(device: Any, trackers: Any, mailbox: Any, node: str, data_parallel: bool) -> Any:
    """A training reporter of this worker: its rank of the process group, or alone; news goes to
    ``mailbox``."""
    from diffadapt.train.reporter import DistributedReporter, LocalReporter, throttled

    on_report = throttled(lambda step, total, scalars: mailbox.progress.remote(node, step, total, scalars))
    return (DistributedReporter if data_parallel else LocalReporter)(device, trackers, on_report)

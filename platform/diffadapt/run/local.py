"""The local runner: everything in this process, one shard after the other; needs torch, not Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import ResourceError
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.run.executor import Executor, choose_device, followed
from diffadapt.run.runner import ExecutionConfig, OnFitProgress, OnReceipt, Runner


class LocalRunner(Runner):
    """Runs chains and fits in order on one device."""

    name = "local"

    def __init__(self, config: ExecutionConfig):
        self.config = config

    def prepare(self) -> None:
        demand_one_worker(self.config)
        import torch

        self.device = choose_device(self.config.device)
        if self.device == "cpu" and self.config.threads:
            torch.set_num_threads(self.config.threads)

    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        executor = Executor(
            stages,
            store,
            device=self.device,
            resident=self.config.resident_models,
            threads=self.config.threads,
        )
        for chain, after in followed(chains):
            executor.expect(after)
            for receipt in executor.run_chain(chain):
                on_receipt(receipt)

    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        for task in fits:
            on_receipt(fit_here(task, stages, store, log_dir, on_progress, self.device, self.config))


def demand_one_worker(config: ExecutionConfig) -> None:
    """ResourceError where fits are to have several workers each."""
    if config.train_workers > 1:
        raise ResourceError(
            "The local runner trains with one worker: set --execution.runner ray for"
            " --execution.train-workers above 1."
        )


def fit_here(
    task: Task,
    stages: Mapping[str, Stage],
    store: Store,
    log_dir: str,
    on_progress: OnFitProgress,
    device: str,
    config: ExecutionConfig,
) -> Receipt:
    """Carry out one fit in this process."""
    from diffadapt.run.fit import run_fit
    from diffadapt.run.logs import Logs
    from diffadapt.train.reporter import LocalReporter

    with Logs(log_dir, task.node, config.trackers) as logs:
        reporter = LocalReporter(
            device, logs.trackers, lambda step, total, scalars: on_progress(task.node, step, total, scalars)
        )
        return run_fit(task, stages, store, reporter, threads=config.threads, log_dir=logs.folder)

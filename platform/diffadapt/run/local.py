"""The local runner: everything in this process, one shard after the other; needs torch, not Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        if self.config.train_workers > 1:
            raise ResourceError(
                "The local runner trains with one worker: set --execution.runner ray for"
                " --execution.train-workers above 1."
            )
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
            for task in chain.tasks:
                receipt = executor.run(task)
                on_receipt(receipt)
                if receipt.status == "failed":
                    break  # what follows in the chain needs this shard

    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        from diffadapt.run.fit import run_fit
        from diffadapt.run.logs import Logs
        from diffadapt.train.reporter import LocalReporter

        for task in fits:
            with Logs(log_dir, task.node, self.config.trackers) as logs:
                reporter = LocalReporter(
                    self.device,
                    logs.trackers,
                    lambda step, total, scalars, node=task.node: on_progress(node, step, total, scalars),
                )
                on_receipt(
                    run_fit(task, stages, store, reporter, threads=self.config.threads, log_dir=logs.folder)
                )

"""The Ray runner: the same work as the local runner's, spread over the machine's cores or a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.orchestrate import metrics
from diffadapt.orchestrate.connection import Connection
from diffadapt.orchestrate.resources import Layout, node_resources, plan_layout
from diffadapt.run.runner import ExecutionConfig, OnFitProgress, OnReceipt

if TYPE_CHECKING:
    from diffadapt.orchestrate.train import FitRunner


class RayRunner:
    """Chains on an actor pool of Ray Data, fits on Ray Train. Receipts and progress arrive in the driver's thread."""

    name = "ray"

    def __init__(self, config: ExecutionConfig):
        self.config = config
        self.connection = Connection(config)
        self._fits: FitRunner | None = None

    def prepare(self) -> None:
        """Start or join Ray and check that the request fits; ResourceError if it does not."""
        self.connection.open()
        self._layout()

    def found(self, shards: Mapping[str, int]) -> None:
        """What the store had before the work began, for the metrics: node -> shards."""
        metrics.found(shards)

    def run_chains(self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt) -> None:
        from diffadapt.orchestrate.pool import run_chains

        plain = all(stages[t.node].resources() == "cpu" for c in chains for t in c.tasks)
        run_chains(chains, stages, store, lambda: self._layout(shrink=True, plain=plain), self.config.resident_models, metrics.counted(on_receipt))

    def run_fits(
        self, fits: Sequence[Task], stages: Mapping[str, Stage], store: Store, log_dir: str, on_receipt: OnReceipt, on_progress: OnFitProgress
    ) -> None:
        from diffadapt.orchestrate.train import FitRunner

        self._fits = self._fits or FitRunner()
        self._fits.run(fits, stages, store, log_dir, self._layout(), metrics.counted(on_receipt), on_progress)

    def close(self) -> None:
        """End our actors and, if we started Ray, its processes."""
        if self._fits is not None:
            self._fits.close()
        self.connection.close()

    def _layout(self, shrink: bool = False, plain: bool = False) -> Layout:
        """Decided anew for every wave: nodes come and go. ``plain``: for work that needs no accelerator and so takes none."""
        cores = os.cpu_count() if self.connection.own else None
        config = replace(self.config, device="cpu") if plain else self.config
        return plan_layout(config, node_resources(), cores, shrink=shrink)

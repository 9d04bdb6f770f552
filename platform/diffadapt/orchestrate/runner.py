"""The Ray runner: the same work as the local runner's, spread over the machine's cores or a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diffadapt.core.errors import ResourceError
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.orchestrate import metrics
from diffadapt.orchestrate.capacity import POSSIBLE, cluster_nodes
from diffadapt.orchestrate.connection import Connection
from diffadapt.orchestrate.resources import Layout, leave_one, plan_layout
from diffadapt.orchestrate.together import run_together
from diffadapt.run.runner import ExecutionConfig, Feed, OnFitProgress, OnReceipt, Runner

if TYPE_CHECKING:
    from diffadapt.orchestrate.fits import FitRunner


PATIENCE_SECONDS = 60.0
"""How long a run that lost too many nodes waits for others before it ends."""


class RayRunner(Runner):
    """Chains on an actor pool of Ray Data, fits on Ray Train. Receipts and progress arrive in the driver's
    thread."""

    name = "ray"
    together = True

    def __init__(self, config: ExecutionConfig):
        self.config = config
        self.connection = Connection(config)
        self._fits: FitRunner | None = None
        self._fits_beside = False

    def prepare(self) -> None:
        """Start or join Ray and check that the request fits; ResourceError if it does not."""
        self.connection.open()
        # Decided once: a run that loses its GPUs must not go on with other bytes on CPUs.
        self.config = replace(self.config, device=self.layout().device)

    def existing(self, shards: Mapping[str, int]) -> None:
        metrics.existing(shards)

    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        from diffadapt.orchestrate.pool import run_chains

        plain = all(stages[t.node].resources() == "cpu" for c in chains for t in c.tasks)
        left = self._fits_beside and not plain  # what needs no accelerator leaves all of them anyway
        run_chains(
            chains,
            stages,
            store,
            lambda: leave_one(self._patiently(plain=plain)) if left else self._patiently(plain=plain),
            self.config.resident_models,
            metrics.counted(on_receipt),
        )

    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        from diffadapt.orchestrate.fits import FitRunner

        self._fits = self._fits or FitRunner(self.config.trackers)
        self._fits.run(fits, stages, store, log_dir, self.layout, metrics.counted(on_receipt), on_progress)

    def run_feed(
        self,
        feed: Feed,
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        """The pool works on what is possible when it starts, and fits on one worker begin beside it as soon
        as their inputs are there. A training group of several workers waits for the pool's end: it would
        stand in line for accelerators that the pool has, and be given up."""
        beside = self.config.train_workers == 1
        self._fits_beside = beside and not self.config.actors and feed.fits_to_come() > 0
        run_together(
            feed,
            lambda chains, tell: self.run_chains(chains, stages, store, tell),
            lambda fits, tell, go_on: self.run_fits(fits, stages, store, log_dir, tell, go_on),
            beside,
            on_receipt,
            on_progress,
        )

    def close(self) -> None:
        """End our actors and, if we started Ray, its processes."""
        if self._fits is not None:
            self._fits.close()
        self.connection.close()

    def layout(self, *, living: bool = False, shrink: bool = False, plain: bool = False) -> Layout:
        """Decided anew for every wave: nodes come and go. ``living``: without nodes that the autoscaler may
        add; ``plain``: for work that needs no accelerator and so takes none. ResourceError if the request
        does not fit.
        """
        cores = os.cpu_count() if self.connection.own else None
        config = replace(self.config, device="cpu") if plain else self.config
        nodes = cluster_nodes()
        return plan_layout(
            config, [n for n in nodes if POSSIBLE not in n] if living else nodes, cores, shrink=shrink
        )

    def _patiently(self, plain: bool) -> Layout:
        """A pool's layout on what there is; where nothing is left, the next nodes are waited for a while."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.layout(shrink=True, plain=plain)
            except ResourceError:
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)

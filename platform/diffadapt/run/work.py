"""The work of a run: waves of what is missing, receipts, the failure rule. The driver holds no results; all
are in the store."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Mapping

from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import DiffadaptError, StoreError, TrainingError
from diffadapt.core.ledger import Ledger
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.core.schedule import Wave, finished, next_wave
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.run.progress import Progress
from diffadapt.run.quarantine import Quarantine
from diffadapt.run.runner import Runner

FATAL = ("WeightsError", "RecipeError", "ResourceError", "DataError")
"""Errors that the next shard would meet too: the run stops at the first."""
FAILURES_IN_A_ROW = 3
"""Failed shards without a finished one between them after which the run stops instead of failing at every
shard."""


class Work:
    """Makes everything that ``plans`` lack. With ``tolerant`` a shard that fails is given up with all that
    needs it, and the rest goes on."""

    def __init__(
        self,
        run: Run,
        store: Store,
        plans: Mapping[str, NodePlan],
        progress: Progress,
        max_failed: float,
        tolerant: bool = False,
    ):
        self.run_folder, self.store, self.plans, self.progress = run, store, plans, progress
        self.made: dict[str, int] = defaultdict(int)
        self.batch_sizes: dict[str, int] = {}
        self.quarantine = Quarantine(plans, store, max_failed, run.root.ledger)
        self.errors: list[Receipt] = []
        self.tolerant = tolerant
        self.given_up: dict[str, str] = {}
        """Digest -> error of what failed, where that is tolerated."""
        self.ledger = Ledger(run.root.ledger)
        self._row = 0
        self.runner_name = "none"
        self.error = ""

    def run(self, runner_factory: Callable[[], Runner]) -> None:
        stages = {name: plan.stage for name, plan in self.plans.items()}
        log_dir = posixpath.join(self.run_folder.url, "tensorboard")
        runner: Runner | None = None
        done = finished(self.plans, self.store)
        if self.quarantine.recall(done):
            done = finished(self.plans, self.store)
            self.quarantine.recall(done)
        self._count_hits(done)
        try:
            while wave := next_wave(self.plans, done, self.given_up):
                if runner is None:
                    runner = runner_factory()
                    self.runner_name = runner.name
                    runner.prepare()
                    runner.existing({name: node.hits for name, node in self.progress.nodes.items()})
                self.errors.clear()
                self._one_wave(runner, wave, stages, log_dir)
                done = finished(self.plans, self.store)
                self._demand(wave, done)
        finally:
            if runner is not None:
                runner.close()
            self.ledger.flush()
            if lines := self.quarantine.jsonl():
                self.run_folder.write("quarantine.jsonl", lines)

    def _one_wave(self, runner: Runner, wave: Wave, stages: Mapping, log_dir: str) -> None:
        if wave.chains:
            runner.run_chains(wave.chains, stages, self.store, self._receipt)
        if wave.fits and not self.errors:
            runner.run_fits(wave.fits, stages, self.store, log_dir, self._receipt, self.progress.fit)

    def _receipt(self, receipt: Receipt) -> None:
        self.progress.receipt(receipt)
        if receipt.status == "made":
            self.made[receipt.node] += 1
            if receipt.batch_size:
                self.batch_sizes[receipt.node] = min(
                    receipt.batch_size, self.batch_sizes.get(receipt.node, receipt.batch_size)
                )
        for sentence in receipt.warnings:
            self.progress.say(f"{receipt.node}: {sentence}")
        self.ledger.add(self.plans[receipt.node], receipt)
        self._row = self._row + 1 if receipt.status == "failed" else 0
        if receipt.status == "failed" and self.tolerant:
            self.given_up[receipt.digest] = receipt.error
        elif receipt.status == "failed":
            self.errors.append(receipt)
            if self._row >= FAILURES_IN_A_ROW or receipt.error.partition(": ")[0] in FATAL:
                self._raise_first()
        self.quarantine.add(receipt)

    def _demand(self, wave: Wave, done: set[str]) -> None:
        if self.errors:
            self._raise_first()
        expected = {t.digest for c in wave.chains for t in c.tasks} | {t.digest for t in wave.fits}
        lost = expected - done
        if self.tolerant:
            self.given_up.update((digest, "") for digest in lost - self.given_up.keys())
        elif lost:
            raise StoreError(
                f"{len(lost)} shards were reported made but are not in the store {redact(self.store.root)}:"
                " workers and driver must see the same --root (a shared folder or an object store)."
            )

    def _raise_first(self) -> None:
        """Raise the first failed shard's error, of its own kind, with the evidence in errors.log."""
        first = self.errors[0]
        text = first.error.split("\n", 1)
        lines = (f"{e.node} {e.key}: {e.error}" for e in self.errors)
        self.run_folder.write("errors.log", redact("\n\n".join(lines)).encode())
        kind, _, sentence = text[0].partition(": ")
        hint = (
            ""
            if len(text) == 1
            else (
                " This is not your input's fault; the traceback is in"
                f" {redact(self.run_folder.url)}/errors.log."
            )
        )
        others = (
            f" ({len(self.errors)} shards failed; finished ones are kept.)" if len(self.errors) > 1 else ""
        )
        known = {c.__name__: c for c in DiffadaptError.__subclasses__()}
        raise known.get(kind, TrainingError)(
            f"{first.node}: {sentence if kind in known else text[0]}{hint}{others}"
        )

    def _count_hits(self, done: set[str]) -> None:
        for name, node in self.progress.nodes.items():
            node.hits = sum(p.digest in done for p in self.plans[name].shards)

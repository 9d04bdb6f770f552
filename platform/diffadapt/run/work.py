"""The work of a run: waves of what is missing, receipts, the failure rule. The driver holds no results; all
are in the store."""

from __future__ import annotations

import posixpath
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import (
    DataError,
    RecipeError,
    ResourceError,
    StoreError,
    TrainingError,
    WeightsError,
    kinds,
)  # fmt: skip
from diffadapt.core.estimate import estimate
from diffadapt.core.lease import Leases, waiting
from diffadapt.core.ledger import Ledger, read
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.core.schedule import Chain, Flow, Task, Wave, finished
from diffadapt.core.sealed import SUCCESS
from diffadapt.core.stage import NodePlan, Stage
from diffadapt.core.store import Store
from diffadapt.run.progress import Progress
from diffadapt.run.quarantine import Quarantine
from diffadapt.run.runner import Runner

FATAL = {
    name for of in (WeightsError, RecipeError, ResourceError, DataError) for name in (of.__name__, *kinds(of))
}
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
        self._accounted: set[str] = set()
        """Digests whose failures the quarantine has."""
        self._received: set[str] = set()
        """Those of them that the progress counts by receipts."""
        self._flow: Flow | None = None
        self.runner_name = "none"
        self.error = ""

    def run(self, runner_factory: Callable[[], Runner]) -> None:
        stages = {name: plan.stage for name, plan in self.plans.items()}
        log_dir = posixpath.join(self.run_folder.url, "tensorboard")
        try:
            done = finished(self.plans, self.store)
            if self.quarantine.recall(done):
                done = finished(self.plans, self.store)
                self.quarantine.recall(done)
            self._count_hits(done)
            self._accounted |= done
            self._expect(done)
            self._clear_leftovers()
            with Leases(self.store) as leases:
                leases.clear()
                self._waves(runner_factory, stages, log_dir, done, leases)
        finally:
            self.progress.close()
            if lines := self.quarantine.jsonl():
                self.run_folder.write("quarantine.jsonl", lines)

    def _waves(
        self,
        runner_factory: Callable[[], Runner],
        stages: Mapping[str, Stage],
        log_dir: str,
        done: set[str],
        leases: Leases,
    ) -> None:
        runner: Runner | None = None
        try:
            while wave := (flow := Flow(self.plans, done, self.given_up)).more():
                if runner is None:
                    runner = runner_factory()
                    self.runner_name = runner.name
                    runner.prepare()
                    self.progress.begin()
                    runner.existing({name: node.hits for name, node in self.progress.nodes.items()})
                self.errors.clear()
                self._flow, feed = flow, _Feed(self, flow, leases)
                feed.take(wave)
                if feed.given:
                    self._one_wave(runner, feed, stages, log_dir)
                else:
                    self._wait(wave.fits, leases)
                for digest in feed.leased:
                    leases.give_back(digest)
                done = finished(self.plans, self.store)
                self._demand(feed.given, done)
                done = self._account(done)
        finally:
            if runner is not None:
                runner.close()
            self.ledger.flush()

    def _expect(self, done: set[str]) -> None:
        """How long a shard of what is missing took before, by the ledger: for the time left of the whole
        run."""
        if not self.progress.estimates or all(
            p.digest in done for n in self.plans.values() for p in n.shards
        ):
            return
        for stage in estimate(self.plans, done, read(self.run_folder.root.ledger)).stages:
            if stage.seconds is not None and (node := self.progress.nodes.get(stage.name)):
                node.each = stage.seconds / stage.shards

    def _wait(self, fits: Sequence[Task], leases: Leases) -> None:
        """Until another driver has finished one of ``fits``, or left it."""
        names = {t.digest: t.node for t in fits}
        paths = [f"{t.path}/{SUCCESS}" for t in fits]
        what = f"The fit {', '.join(names.values())}"
        leases.wait(
            list(names),
            lambda: bool(self.store.existing(paths)),
            lambda holder: self.progress.say(waiting(holder, what), ""),
        )

    def _account(self, done: set[str]) -> set[str]:
        """Take in what other drivers finished meanwhile: what they set apart counts here too, whoever came
        first. Returns the digests of what is finished."""
        if others := done - self._accounted:
            self._accounted |= others
            if self.quarantine.recall(others):
                done = finished(self.plans, self.store)
            self._count_hits(done & (self._accounted - self._received))
        return done

    def _clear_leftovers(self) -> None:
        """What killed writers left where this run writes."""
        paths = [p.path for plan in self.plans.values() for p in plan.shards if p.path]
        fits = [p.path for plan in self.plans.values() if plan.stage.fit_stage for p in plan.shards if p.path]
        self.store.clear_leftovers({path.rpartition("/")[0] for path in paths})
        self.store.clear_leftovers(fits, below=True)
        self.run_folder.root.ledger.clear_leftovers([""])
        self.run_folder.clear_leftovers()

    def _one_wave(self, runner: Runner, feed: _Feed, stages: Mapping, log_dir: str) -> None:
        if runner.together:
            runner.run_feed(feed, stages, self.store, log_dir, self._receipt, self.progress.fit)
            return
        if chains := feed.chains():
            runner.run_chains(chains, stages, self.store, self._receipt)
        if fits := feed.fits():
            runner.run_fits(fits, stages, self.store, log_dir, self._receipt, self.progress.fit)

    def _receipt(self, receipt: Receipt) -> None:
        if receipt.status != "failed":
            self._accounted.add(receipt.digest)
            self._received.add(receipt.digest)
            if self._flow is not None:
                self._flow.finish(receipt.digest)
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

    def _demand(self, expected: set[str], done: set[str]) -> None:
        if self.errors:
            self._raise_first()
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
        known = kinds()
        raise known.get(kind, TrainingError)(
            f"{first.node}: {sentence if kind in known else text[0]}{hint}{others}"
        )

    def _count_hits(self, done: set[str]) -> None:
        for name, node in self.progress.nodes.items():
            node.hits = sum(p.digest in done for p in self.plans[name].shards)


class _Feed:
    """What a runner is given: chains, and the fits of which this driver has the lease. After a failure that
    is not tolerated no fit begins, and nothing that was not possible before."""

    def __init__(self, work: Work, flow: Flow, leases: Leases):
        self.work, self.flow, self.leases = work, flow, leases
        self.given: set[str] = set()
        """Digests of all of it."""
        self.leased: list[str] = []
        self._chains: list[Chain] = []
        self._fits: deque[Task] = deque()

    def take(self, wave: Wave) -> None:
        """Add ``wave``; the fits that another driver is at are left to a later wave."""
        allowed = self.work.quarantine.max_failed
        fits = tuple(replace(t, max_failed=allowed) for t in wave.fits if self.leases.take(t.digest))
        self.leased += [t.digest for t in fits]
        self.given |= replace(wave, fits=fits).digests()
        self._chains += wave.chains
        self._fits += fits

    def chains(self) -> Sequence[Chain]:
        self._refill()
        chains, self._chains = self._chains, []
        return chains

    def fit(self) -> Task | None:
        self._refill()
        return self._fits.popleft() if self._fits and not self.work.errors else None

    def fits_to_come(self) -> int:
        return self.flow.fits()

    def fits(self) -> Sequence[Task]:
        """All that may begin now, for a runner that works in waves; no more than the first wave has."""
        fits = [] if self.work.errors else list(self._fits)
        self._fits.clear()
        return fits

    def _refill(self) -> None:
        if not self.work.errors:
            self.take(self.flow.more())

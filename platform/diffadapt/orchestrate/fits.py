"""Fits on Ray, as the driver sees them: groups of workers that follow each other while nodes come and go.

A group that lost a worker or a node is followed by another, as large as the cluster can host then, which goes
on from the newest checkpoint.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ray

from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import ResourceError
from diffadapt.core.identity import digest
from diffadapt.core.schedule import Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.orchestrate.journal import Mailbox, here
from diffadapt.orchestrate.resources import Layout
from diffadapt.orchestrate.train import TrainHost, Work, outcome, start_lanes, start_plain
from diffadapt.run.runner import OnFitProgress, OnReceipt

MAX_FAILURES = 3
"""Groups in a row that may end without having brought any fit further."""
POLL_SECONDS = 0.2
WATCH_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""How long fits that no node can host wait for others before the run ends."""


class FitRunner:
    """Carries out waves of fits; keeps one process that has Ray Train loaded, because importing it takes
    seconds."""

    def __init__(self, trackers: tuple[str, ...] = ()) -> None:
        self.trackers = trackers
        self.host: Any = None

    def run(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        layout: Callable[..., Layout],
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        """Carry out independent fits: each on ``train_workers`` workers, or side by side when that is one.

        ``layout()`` gives what the cluster can host now, with ``living`` what its present nodes can; both may
        raise ResourceError. Every fit gets one receipt; progress arrives while it trains. A fit whose workers
        were lost more than MAX_FAILURES times without having come further gets a ``failed`` receipt. Raises
        ResourceError when no node can host what is left for PATIENCE_SECONDS.
        """
        first = layout()
        mailbox: Any = Mailbox.options(scheduling_strategy=here()).remote()
        work = Work(
            tuple(fits),
            dict(stages),
            store,
            log_dir,
            mailbox,
            first.train_workers > 1,
            first.threads,
            self.trackers,
        )
        wave = _Wave(fits, mailbox, on_receipt, on_progress)
        trained = [t for t in fits if stages[t.node].trains and stages[t.node].resources() != "cpu"]
        plain = [start_plain(dataclasses.replace(work, fits=(t,)), first) for t in fits if t not in trained]
        groups = _Groups(self, dataclasses.replace(work, fits=tuple(trained)), wave, layout)
        hosts = _Watch(layout)
        try:
            if trained:
                groups.start(first)
            while groups.running() or ray.wait(plain, num_returns=len(plain), timeout=POLL_SECONDS)[1]:
                wave.deliver()
                hosts.look()
                groups.look()
            errors = [e for e in [*map(outcome, plain), groups.error] if e]
        except BaseException:
            for job in plain:
                ray.cancel(job, force=True)
            groups.give_up()
            raise
        wave.deliver()
        wave.fail_rest(errors)
        if work.data_parallel:  # Ray Train's own files
            for name in groups.names:
                store.remove(f".train/{name}")
        ray.kill(mailbox)

    def close(self) -> None:
        """End the process with Ray Train, and with it any training group."""
        if self.host is not None:
            ray.kill(self.host)
            self.host = None


class _Wave:
    """The fits of a wave: which wait, and how far each has come."""

    def __init__(self, fits: Sequence[Task], mailbox: Any, on_receipt: OnReceipt, on_progress: OnFitProgress):
        self.waiting = {t.digest: t for t in fits}
        self.mailbox, self.on_receipt, self.on_progress = mailbox, on_receipt, on_progress
        self.furthest: dict[str, int] = {}

    def deliver(self) -> None:
        """Hand on what the workers told."""
        for kind, *content in ray.get(self.mailbox.drain.remote()):
            if kind == "progress":
                self.furthest[content[0]] = max(content[1], self.furthest.get(content[0], 0))
                self.on_progress(*content)
            else:
                self.waiting.pop(content[0].digest, None)
                self.on_receipt(content[0])

    def reached(self) -> tuple[int, int]:
        """Grows whenever a fit came further than ever before, or to an end."""
        return -len(self.waiting), sum(self.furthest.values())

    def fail_rest(self, errors: Sequence[str]) -> None:
        for task in self.waiting.values():
            text = cast(str, ray.get(self.mailbox.last_error.remote(task.digest))) or (
                f"ResourceError: the training workers were lost ({'; '.join(errors) or 'no reason given'}):"
                " run the same command again; it goes on from the last checkpoint."
            )
            self.on_receipt(Receipt(task.node, task.shard.key, task.digest, "failed", 0, error=text))


class _Groups:
    """Training groups, one after the other, until all fits are settled or nothing gets any further."""

    def __init__(self, runner: FitRunner, work: Work, wave: _Wave, layout: Callable[..., Layout]):
        self.runner, self.work, self.wave, self.layout = runner, work, wave, layout
        self.names: list[str] = []
        self.error = ""
        self._jobs: list[Any] = []
        self._later = False
        self._failures = self._workers = 0
        self._before = wave.reached()
        self._looked = 0.0

    def running(self) -> bool:
        """Whether there is a group or will be; waits a moment for its end and starts the next one if that is
        needed."""
        if self._later:
            time.sleep(POLL_SECONDS)
            self.start(self._present())
        elif self._jobs and not self._unfinished():
            self.error, self._jobs = next(filter(None, map(outcome, self._jobs)), ""), []
            self.wave.deliver()
            if self.error and self._left():
                self._failures = 0 if self.wave.reached() > self._before else self._failures + 1
                if self._failures <= MAX_FAILURES:
                    self.start(self._present())
        return self._later or bool(self._jobs)

    def give_up(self) -> None:
        """End all processes of the group."""
        if self.work.data_parallel:
            self.runner.close()
        else:
            for job in self._jobs:
                ray.cancel(job, force=True)

    def _unfinished(self) -> list[Any]:
        return ray.wait(self._jobs, num_returns=len(self._jobs), timeout=POLL_SECONDS)[1]

    def start(self, layout: Layout | None) -> None:
        """A group of ``layout``'s size for the fits that are left; None: no node can host one, and it is
        tried again later."""
        left = self._left()
        self._later = layout is None
        if layout is None:
            return
        self._before = self.wave.reached()
        self._workers = layout.train_workers if self.work.data_parallel else min(layout.lanes, len(left))
        self.names.append(f"fits-{digest([len(self.names), *sorted(t.digest for t in left)], 16)}")
        work = dataclasses.replace(self.work, fits=left)
        if not work.data_parallel:
            self._jobs = start_lanes(work, layout, self.names[-1], self._workers)
            return
        if self.runner.host is None:
            self.runner.host = TrainHost.options(scheduling_strategy=here()).remote()
        self._jobs = [self.runner.host.fit.remote(work, layout, self.names[-1], self._workers)]

    def look(self) -> None:
        """Give up a group that still waits for workers which no node can host any more; a smaller one may
        follow."""
        if time.monotonic() - self._looked < WATCH_SECONDS or not self._jobs:
            return
        self._looked = time.monotonic()
        if self._fitting() < self._workers and not ray.get(
            self.wave.mailbox.has_begun.remote(self.names[-1])
        ):
            self.give_up()

    def _left(self) -> tuple[Task, ...]:
        return tuple(t for t in self.work.fits if t.digest in self.wave.waiting)

    def _present(self) -> Layout | None:
        """What the living nodes can host, rather than wait for others again; else what the cluster can."""
        for living in (True, False):
            try:
                return self.layout(living=living)
            except ResourceError:
                continue
        return None

    def _fitting(self) -> int:
        try:
            layout = self.layout()
        except ResourceError:
            return 0
        return layout.train_workers if self.work.data_parallel else layout.lanes


class _Watch:
    """Ends the run when the cluster cannot host its fits for too long."""

    def __init__(self, layout: Callable[..., Layout]):
        self._layout = layout
        self._looked = self._hosted = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < WATCH_SECONDS:
            return
        self._looked = now
        try:
            self._layout()
            self._hosted = now
        except ResourceError:
            if now - self._hosted > PATIENCE_SECONDS:
                raise

"""The local runner in several processes of this machine: chains and fits go to whichever is idle, without
Ray.

A worker process is a fresh interpreter on a socket of its own. It ends when this process does, however that
ends; what it had open when it died is given to another, at most :data:`ATTEMPTS` times.
"""

from __future__ import annotations

import pickle
import subprocess
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from diffadapt.core.errors import ResourceError
from diffadapt.core.functions import loaded
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.prompts.backends.base import HANDED_IN
from diffadapt.run.child import start
from diffadapt.run.executor import THREAD_VARIABLES, failed, lost_worker
from diffadapt.run.local import demand_one_worker
from diffadapt.run.runner import ExecutionConfig, Feed, OnFitProgress, OnReceipt, Runner

ATTEMPTS = 3
"""So often a shard, or a fit that comes no further, may end its process before it is given up."""
FAREWELL_SECONDS = 5.0
"""How long a process that is told to end may tidy up."""


class LocalPool(Runner):
    """Up to ``workers`` processes, each started when there is work for it; they live as long as the runner,
    with their loaded models."""

    name = "local"
    together = True

    def __init__(self, config: ExecutionConfig, workers: int):
        self.config, self.workers = config, max(1, workers)
        self._all: list[_Worker] = []

    def prepare(self) -> None:
        demand_one_worker(self.config)

    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        self.run_feed(_Fixed(chains, ()), stages, store, "", on_receipt, lambda *told: None)

    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        self.run_feed(_Fixed((), fits), stages, store, log_dir, on_receipt, on_progress)

    def run_feed(
        self,
        feed: Feed,
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        """A fit goes before chains, because more waits for it; a chain that was begun goes before both.

        A shard that ends its process ATTEMPTS times gets a ``failed`` receipt, and so does a fit that came no
        further between. Raises ResourceError where a process ends before it can work.
        """
        place = pickle.dumps((dict(stages), store, log_dir))
        book = _Book(feed, on_receipt, on_progress)
        while True:
            self._hand_out(book, place)
            busy = {w.connection: w for w in self._all if w.work is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                self._hear(busy[connection], book)  # type: ignore[index]

    def close(self) -> None:
        """End the processes: at once where they wait, within FAREWELL_SECONDS where they work."""
        workers, self._all = self._all, []
        for worker in workers:
            worker.dismiss()
        end = time.monotonic() + FAREWELL_SECONDS
        for worker in workers:
            worker.end(end - time.monotonic())

    def _hand_out(self, book: _Book, place: bytes) -> None:
        while True:
            idle = [w for w in self._all if w.work is None]
            if not idle and len(self._all) >= self.workers or (work := book.next()) is None:
                return
            if not idle:
                idle = [_Worker(self.config)]
                self._all += idle
            idle[0].give(work, place)

    def _hear(self, worker: _Worker, book: _Book) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self._all.remove(worker)
            worker.end(0.0)
            if not worker.up:
                raise ResourceError(
                    f"A worker process of this machine ended before it could work ({worker.ended()}): free"
                    " memory, or use --execution.actors 1, which needs no other process."
                ) from None
            book.lost(worker.work)
            return
        if kind == "up":
            worker.up = True
        elif kind == "done":
            worker.work = None
        elif kind == "broken":
            raise ResourceError(
                f"A worker process of this machine cannot take up the work ({content[0]}): use"
                " --execution.runner local, which needs no other process."
            )
        else:
            book.hear(kind, content)


class _Worker:
    """One process, and what it has open."""

    def __init__(self, config: ExecutionConfig):
        threads = max(1, config.threads)
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self.process, self.connection = start("diffadapt.run.local_worker", variables)
        self.up, self.work, self._place = False, None, b""
        self._send(("settings", replace(config, threads=threads), loaded(), dict(HANDED_IN)))

    def give(self, work: Chain | Task, place: bytes) -> None:
        self.work = work
        if place != self._place:
            self._send(("place", place))
            self._place = place
        self._send(("work", work))

    def dismiss(self) -> None:
        """Ask it to end; what it does at the moment is left unfinished."""
        if self.work is not None:
            self.process.terminate()
        else:
            self._send(("end",))

    def end(self, seconds: float) -> None:
        """Wait for its end, after ``seconds`` bring it about."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self.connection.close()

    def ended(self) -> str:
        status = self.process.returncode
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    def _send(self, message: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it has died, which is heard where its answers are
            self.connection.send(message)


class _Book:
    """What is to be done, has been answered, and was lost with a process."""

    def __init__(self, feed: Feed, on_receipt: OnReceipt, on_progress: OnFitProgress):
        self.feed, self.on_receipt, self.on_progress = feed, on_receipt, on_progress
        self._again: deque[Chain | Task] = deque()
        self._chains: deque[Chain] = deque()
        self._answered: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._steps: dict[str, int] = {}
        """Node -> how far its fit has come."""
        self._steps_lost: dict[str, int] = {}

    def next(self) -> Chain | Task | None:
        if self._again:
            return self._again.popleft()
        self._chains += self.feed.chains()
        if (fit := self.feed.fit()) is not None:
            return fit
        return self._chains.popleft() if self._chains else None

    def hear(self, kind: str, content: list[Any]) -> None:
        if kind == "progress":
            self._steps[content[0]] = max(content[1], self._steps.get(content[0], 0))
            self.on_progress(*content)
        else:
            self._answered.add(content[0].digest)
            self.on_receipt(content[0])

    def lost(self, work: Chain | Task | None) -> None:
        """The process that had ``work`` has died: it is done again from where it stopped, or given up."""
        tasks = work.tasks if isinstance(work, Chain) else (work,) if work else ()
        left = tuple(t for t in tasks if t.digest not in self._answered)
        if not left:
            return
        first, step = left[0], self._steps.get(left[0].node, 0)
        if isinstance(work, Task) and step > self._steps_lost.get(first.node, 0):
            self._lost[first.digest] = 0
        self._steps_lost[first.node] = step
        self._lost[first.digest] += 1
        if self._lost[first.digest] < ATTEMPTS:
            self._again.append(Chain(left) if isinstance(work, Chain) else first)
        else:
            label = f"{first.node} {first.shard.key}"
            self.hear("receipt", [failed(first, lost_worker(ATTEMPTS, label))])


class _Fixed:
    """A feed of what is known beforehand."""

    def __init__(self, chains: Sequence[Chain], fits: Sequence[Task]):
        self._chains, self._fits = list(chains), deque(fits)

    def chains(self) -> Sequence[Chain]:
        chains, self._chains = self._chains, []
        return chains

    def fit(self) -> Task | None:
        return self._fits.popleft() if self._fits else None

    def fits_to_come(self) -> int:
        return len(self._fits)

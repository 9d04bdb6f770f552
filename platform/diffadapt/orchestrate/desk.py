"""The driver's side of trials on Ray Tune: who runs, what came back, which trial is lost and tried again."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from diffadapt.orchestrate.searchers import Source
from diffadapt.run.epochs import OBJECTIVE, RESULT
from diffadapt.run.executor import one_line
from diffadapt.run.sweep import OnResult
from diffadapt.run.trial import TrialWork, failed, halved, out_of_memory, stopped
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.result import TrialResult, from_json
from diffadapt.sweeps.trials import Trial

LOOK_SECONDS = 1.0
"""How often the store is asked whether what a trial waits for is there."""
Plans = Callable[[TrialWork], dict[str, str]]
"""What a trial needs: digest -> name in the store."""


@dataclass
class Job:
    """A trial under way."""

    work: TrialWork
    tries: int = 1
    started: float = field(default_factory=time.monotonic)
    needs: dict[str, str] | None = None
    """Digest -> name in the store (of a fit, of the file that says it is complete) of all that it makes or
    finds."""


class Desk(Searcher):
    """Gives trials to Tune as long as there is room, and hands every result to ``on_result`` once.

    ``make``: the work of a trial. ``room()``: how many may run side by side now. A trial whose worker was
    lost is given out again ``retries`` times, after a lack of host memory with halved batches; then it has
    failed. With ``plans`` a trial is held back while another one is making what both need. An error of
    ``on_result`` ends the search and is kept in ``error``.
    """

    def __init__(
        self,
        source: Source,
        make: Callable[[Trial], TrialWork],
        sweep: Sweep,
        room: Callable[[], int],
        retries: int,
        on_result: OnResult,
        plans: Plans | None = None,
    ):
        super().__init__(metric=OBJECTIVE, mode="max")
        self.source, self.make, self.sweep, self.room, self.retries, self.on_result, self.plans = (
            source,
            make,
            sweep,
            room,
            retries,
            on_result,
            plans,
        )
        self.exists = sweep.root.store.exists
        self.held: Job | None = None
        self._looked = -LOOK_SECONDS
        self.live: dict[str, Job] = {}
        self.again: deque[Job] = deque()
        self.error: BaseException | None = None
        self.news = News(self)

    def check(self) -> None:
        """Raise what ended the search: Tune then ends the trials that run."""
        if self.error is None:
            try:
                self.room()
            except Exception as error:
                self.error = error
        if self.error is not None:
            raise self.error

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Tune asks for the next trial."""
        if self.error is not None:
            return Searcher.FINISHED
        try:
            if len(self.live) >= self.room():
                return None
            job = self._next()
        except Exception as error:
            self.error = error
            return Searcher.FINISHED
        if job is None:
            return (
                Searcher.FINISHED
                if not (self.live or self.again or self.held) and self.source.exhausted
                else None
            )
        self.live[trial_id] = job
        return {"work": job.work}

    def _next(self) -> Job | None:
        if self.held is None:
            if self.again:
                self.held = self.again.popleft()
            elif (trial := self.source.next()) is not None:
                self.held = Job(self.make(trial))
        if self.held is None or self._waits(self.held):
            return None
        job, self.held = self.held, None
        return replace(job, started=time.monotonic())

    def _waits(self, job: Job) -> bool:
        """Whether a trial that runs is about to make something that this one needs: made once, it is waited
        for."""
        if self.plans is None:
            return False
        if job.needs is None:
            job.needs = self.plans(job.work)
        others: set[str] = set().union(*(j.needs or () for j in self.live.values()))
        both = others & set(job.needs)
        if not both or time.monotonic() - self._looked < LOOK_SECONDS:
            return bool(both)
        self._looked = time.monotonic()
        return any(not self.exists(job.needs[d]) for d in both)

    def ended(self, trial_id: str, result: TrialResult | None) -> None:
        """A trial came to its end; None: a scheduler ended it."""
        job = self.live.pop(trial_id, None)
        if job is None:
            return
        if result is None:
            result = stopped(job.work, time.monotonic() - job.started)
            self.sweep.record(result)
        self._deliver(result)

    def lost(self, trial_id: str, reason: str, preempted: bool = False) -> None:
        """The worker of a trial is gone; ``preempted``: with a machine that was taken back, which says
        nothing against the trial."""
        job = self.live.pop(trial_id, None)
        if job is None:
            return
        memory = out_of_memory(reason)
        if preempted or job.tries <= self.retries:
            work = job.work
            if memory and (smaller := halved(work.build(), work.adjusted)):
                work = replace(work, adjusted=smaller)
            self.again.append(
                Job(work, job.tries + (not preempted), needs=job.needs if work is job.work else None)
            )
            return
        result = failed(
            job.work, _sentence(reason, memory, job.tries), time.monotonic() - job.started, job.work.adjusted
        )
        self.sweep.record(result)
        self._deliver(result)

    def _deliver(self, result: TrialResult) -> None:
        self.source.tell(result)
        self.on_result(result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        return None

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what was finished is in the sweep's folder and in the store."""

    def restore(self, checkpoint_path: str) -> None:
        return None

    def get_state(self) -> dict:
        return {}

    def __getstate__(self) -> dict:
        """Tune stores a copy when it begins, to restore experiments from, which is never done here; threads
        and connections, which this holds, cannot be stored."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None


class News(Callback):
    """What Tune tells of its trials, passed on to the desk."""

    def __init__(self, desk: Desk):
        self.desk = desk

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        self.desk.check()

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        self._guard(self._result, trial, result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._guard(self.desk.ended, trial.trial_id, None)  # a result that arrived has ended it already

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._guard(self.desk.lost, trial.trial_id, *_error_of(trial))

    def _result(self, trial: Any, result: Mapping[str, Any]) -> None:
        if RESULT in result:
            self.desk.ended(trial.trial_id, from_json(result[RESULT]))

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        """Tune would turn an error into one of its own and lose what it says."""
        try:
            call(*arguments)
        except Exception as error:
            self.desk.error = self.desk.error or error

    def get_state(self) -> None:
        return None


def _error_of(trial: Any) -> tuple[str, bool]:
    """(what Ray says, whether the machine was taken back) of a trial that was lost."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return "", False
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # an error that cannot be read again, or none
        return text, False
    cause = getattr(error, "cause", None)
    return text, bool(getattr(error, "preempted", False) or getattr(cause, "preempted", False))


def _sentence(reason: str, memory: bool, tries: int) -> str:
    times = f"{tries} times" if tries > 1 else "once"
    if memory:
        return (
            f"The trial's worker was ended {times} because the machine ran out of memory: run fewer trials"
            " side by side (--search.concurrent), or lower the batch size; the same command tries it again."
        )
    last = one_line_of(reason)
    return (
        f"The trial's worker process was lost {times}{f' ({last})' if last else ''}: look at the machine's"
        " memory and at Ray's logs; the same command tries it again."
    )


def one_line_of(reason: str) -> str:
    """The line of Ray's account that says most: its last one."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    return one_line(Exception(lines[-1].rstrip(".")))[:200] if lines else ""

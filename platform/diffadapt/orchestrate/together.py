"""Chains on the pool and fits beside it: each in a thread of its own, their news in the driver's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from diffadapt.core.schedule import Chain, Task
from diffadapt.run.runner import Feed, OnFitProgress, OnReceipt

Chains = Callable[[Sequence[Chain], OnReceipt], None]
Fits = Callable[[Sequence[Task], OnReceipt, OnFitProgress], None]


def run_together(
    feed: Feed, chains: Chains, fits: Fits, beside: bool, on_receipt: OnReceipt, on_progress: OnFitProgress
) -> None:
    """Carry out what ``feed`` gives until it gives nothing while nothing is at work. Fits begin as soon as
    they can, or with ``beside`` false when no pool is at work.

    ``on_receipt`` and ``on_progress`` are called in this thread, as is ``feed``. Raises what they, ``chains``
    or ``fits`` raise; threads that are still at work then end with the connection.
    """
    news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    tell_receipt: OnReceipt = lambda receipt: news.put((on_receipt, receipt))  # noqa: E731
    tell_progress: OnFitProgress = lambda *told: news.put((on_progress, *told))  # noqa: E731
    at_work = {"chains": 0, "fits": 0}

    def start(what: str, work: Callable[..., None], *arguments: Any) -> None:
        def carry_out() -> None:
            error: BaseException | None = None
            try:
                work(*arguments)
            except BaseException as raised:  # the driver's thread raises it
                error = raised
            news.put((ended, what, error))

        at_work[what] += 1
        threading.Thread(target=carry_out, daemon=True).start()

    def ended(what: str, error: BaseException | None) -> None:
        at_work[what] -= 1
        if error is not None:
            raise error

    waiting: list[Chain] = []
    while True:
        waiting += feed.chains()
        if waiting and not at_work["chains"] and (beside or not at_work["fits"]):
            start("chains", chains, waiting, tell_receipt)
            waiting = []
        if beside or not at_work["chains"]:
            if ready := list(iter(feed.fit, None)):
                start("fits", fits, ready, tell_receipt, tell_progress)
        if not any(at_work.values()):
            return
        call, *told = news.get()
        call(*told)

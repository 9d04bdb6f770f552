"""A sign of life: while a run works, its status file is written every few seconds, whatever the work is."""

from __future__ import annotations

import threading
from collections.abc import Callable

from diffadapt.core.errors import StoreError

SECONDS = 5.0
SILENCE = 120.0
"""A run that has not written its status for so long does not run any more."""


class Heartbeat:
    """A context manager that calls ``beat`` at once and then every ``seconds`` in a thread of its own."""

    def __init__(self, beat: Callable[[], None], seconds: float = SECONDS):
        self.beat, self.seconds = beat, seconds
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        self.beat()
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.stop.wait(self.seconds):
            try:
                self.beat()
            except StoreError:
                pass  # the work itself meets the same store and says so

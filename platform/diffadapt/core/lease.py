"""Leases: of two drivers that would do the same work, one does it and the other waits for the result.

A lease is a small file ``.leases/<name>.<number>`` of a store. Who holds the highest number has it; its
content changes with every sign of life. It can be taken over, under the next number, when the process that
holds it has ended, or has been silent for SILENCE seconds by the watch of the one who waits: no two clocks
are compared. Results do not depend on it (commits are whole, and the first stays); it saves doing them twice.
"""

from __future__ import annotations

import json
import os
import platform
import posixpath
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from diffadapt.core.errors import StoreError
from diffadapt.core.processes import has_ended, owner
from diffadapt.core.store import Store

FOLDER = ".leases"
BEAT = 5.0
"""Seconds between signs of life."""
SILENCE = 60.0
"""Seconds without one after which a lease may be taken over."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says; ``number``: of the file."""

    number: int
    owner: str = ""
    host: str = ""
    pid: int = 0
    life: str = ""
    """Changes with every sign of life."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "another process"


class Leases:
    """The leases of this process on ``store``; a context that gives back what it still holds.

    StoreError when the store cannot be written.
    """

    def __init__(self, store: Store, beat: float = BEAT, silence: float = SILENCE):
        self.store, self.beat, self.silence = store, beat, silence
        self._mine: dict[str, int] = {}
        self._seen: dict[str, tuple[Holder, float]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._token = secrets.token_hex(8)

    def take(self, name: str) -> bool:
        """Whether this process has the lease ``name`` now; False while another one does."""
        if name in self._mine:
            return True
        holder = self.holder(name)
        if holder is not None and not self._is_over(name, holder):
            return False
        number = holder.number + 1 if holder else 1
        if not self._create(self._file(name, number)):
            return False
        with self._lock:
            self._mine[name] = number
        if holder is not None:
            with suppress(StoreError):
                self.store.remove(self._file(name, holder.number))
        self._seen.pop(name, None)
        self._live()
        return True

    def holder(self, name: str) -> Holder | None:
        """Who holds the lease; None when nobody does."""
        numbers = [int(n) for f in self.store.list(FOLDER) if (n := f.removeprefix(f"{name}.")).isdigit()]
        if not numbers:
            return None
        number = max(numbers)
        try:
            value = json.loads(self.store.read_bytes(self._file(name, number)))
            return Holder(number, value["owner"], value["host"], int(value["pid"]), value["life"])
        except (StoreError, ValueError, KeyError, TypeError):  # given back this moment, or damaged
            return Holder(number)

    def give_back(self, name: str) -> None:
        """End a lease of this process; without one, nothing."""
        with self._lock:
            number = self._mine.pop(name, None)
        if number is not None:
            with suppress(StoreError):
                self.store.remove(self._file(name, number))

    def clear(self) -> None:
        """Remove the leases that processes of this machine left when they ended, and unfinished ones: nobody
        may ever ask for their names again."""
        self.store.clear_leftovers([FOLDER])
        for name in {file.rpartition(".")[0] for file in self.store.list(FOLDER)} - self._mine.keys():
            holder = self.holder(name)
            if holder is not None and has_ended(holder.owner) and self.take(name):
                self.give_back(name)

    def wait(self, names: Sequence[str], done: Callable[[], bool], say: Callable[[Holder], None]) -> None:
        """Return as soon as ``done()``, or as soon as one of ``names`` may be taken. ``say`` is told once who
        is waited for."""
        said = False
        while not done():
            for name in names:
                holder = self.holder(name)
                if holder is None or self._is_over(name, holder):
                    return
                if not said:
                    said = True
                    say(holder)
            time.sleep(min(1.0, self.beat / 2))

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for name in list(self._mine):
            self.give_back(name)

    def _is_over(self, name: str, holder: Holder) -> bool:
        before, since = self._seen.get(name, (None, 0.0))
        if before != holder:
            self._seen[name] = (holder, time.monotonic())
            return has_ended(holder.owner)
        return has_ended(holder.owner) or time.monotonic() - since > self.silence

    def _file(self, name: str, number: int) -> str:
        return posixpath.join(FOLDER, f"{name}.{number}")

    def _content(self) -> bytes:
        value = {"owner": owner(), "host": platform.node(), "pid": os.getpid()}
        return json.dumps({**value, "life": f"{self._token}-{time.time_ns()}"}).encode()

    def _create(self, file: str) -> bool:
        return self.store.create(file, self._content())

    def _live(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_on, daemon=True)
            self._thread.start()

    def _beat_on(self) -> None:
        while not self._stop.wait(self.beat):
            with self._lock:  # not while one is given back: it would come to life again
                for name, number in self._mine.items():
                    with suppress(StoreError):  # the work itself meets the same store and says so
                        self.store.write_bytes(self._file(name, number), self._content())


@contextmanager
def alone(store: Store, name: str, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease ``name``; another process that has it is waited for, which ``say`` is told once, with
    ``what`` both are at. StoreError when the store cannot be written."""
    with Leases(store) as leases:
        leases.clear()
        while not leases.take(name):
            leases.wait([name], lambda: False, lambda holder: say(waiting(holder, what)))
        yield


def waiting(holder: Holder, what: str) -> str:
    """The sentence of a driver that waits."""
    return f"{what}: {holder} is at it already; waiting for its results, which Ctrl-C ends without harm."

"""What runs and sweeps there are and how far each is, kept in memory: files are read again when they have
changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root, Run
from diffadapt.core.store import Store
from diffadapt.core.units import format_seconds
from diffadapt.run.state import done_of, seconds_left, state_of
from diffadapt.sweeps.folder import Sweep

FRESH = 1.0
"""Seconds for which a look at the folders is good enough."""
PATIENCE = 0.4
"""Seconds that an answer waits for a look that takes longer; then it tells what is known."""
REMOTE = 60.0
"""Seconds after which the status of a run on an object store that was not running is asked for again."""
SOME = 100
"""Runs that are read before a list shows them."""
STATUS = "status.json"


@dataclass(frozen=True)
class Entry:
    """A run or sweep as lists show it."""

    name: str
    status: dict[str, Any]
    """As recorded, of each stage only what :func:`left_of` needs."""
    done: int
    total: int
    quarantined: int
    updated: float
    seen: float
    mark: tuple[int, int] | None

    @property
    def state(self) -> str:
        return state_of(self.status)


class Shelf:
    """The folders of one kind, runs or sweeps."""

    def __init__(self, root: Root, place: Store, kind: type[Run] | type[Sweep]):
        self.root, self.place, self.kind = root, place, kind
        self.entries: dict[str, Entry] = {}
        self.order: list[str] = []
        """Names, newest first."""
        self.left = 0
        """How many are still to be read by the look that is going on."""

    def look(self) -> None:
        """Read what is new or has changed, the newest first; what is read is known at once."""
        names = [n for n in self.place.list("") if not n.startswith((".", "store.json"))]
        now, there = time.monotonic(), set(names)
        for name in [n for n in self.entries if n not in there]:
            del self.entries[name]
        marks = {n: self._mark(n) for n in names} if self.place.local else {}
        due = [n for n in names if self._due(n, marks.get(n), now)]
        due.sort(key=lambda n: marks.get(n) or (0, 0), reverse=True)
        self.left = len(due)
        for start in range(0, len(due), SOME):
            for entry in self.place.each(self._read, due[start : start + SOME]):
                self.entries[entry.name] = entry
            self.left = max(0, len(due) - start - SOME)
            self._sort()
        self._sort()

    def _sort(self) -> None:
        self.order = sorted(self.entries, key=lambda n: (self.entries[n].updated, n), reverse=True)

    def _due(self, name: str, mark: tuple[int, int] | None, now: float) -> bool:
        known = self.entries.get(name)
        if known is None:
            return True
        if self.place.local:
            return mark != known.mark
        return known.status.get("state") == "running" or now - known.seen > REMOTE

    def _mark(self, name: str) -> tuple[int, int] | None:
        """When a status was written and how long it is. What it says is read by way of the store, which
        looks where links lead."""
        try:
            found = os.stat(f"{self.place.path}/{name}/{STATUS}")
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _read(self, name: str) -> Entry:
        mark = self._mark(name) if self.place.local else None
        try:
            status = self.kind(self.root, name).status()
            done, total = done_of(status)
            nodes = status.get("nodes") or {}
            quarantined = sum(int(n.get("quarantined") or 0) for n in nodes.values())
            kept = {n: {k: v.get(k) for k in ("seconds_left", "step", "steps")} for n, v in nodes.items()}
            updated = status.get("updated")
            updated = float(updated) if isinstance(updated, (int, float)) else 0.0
        except (DiffadaptError, ValueError, TypeError, AttributeError) as error:
            said = redact(str(error)) if isinstance(error, DiffadaptError) else f"{STATUS} is damaged."
            status, kept, done, total, quarantined, updated = {"error": said}, {}, 0, 0, 0, 0.0
        value = {k: status.get(k) for k in ("state", "updated", "host", "pid", "started", "error", "job")}
        value = {k: v for k, v in value.items() if v is not None}
        return Entry(
            name, {**value, "nodes": kept}, done, total, quarantined, updated, time.monotonic(), mark
        )  # fmt: skip


def left_of(status: dict[str, Any]) -> str:
    """'3 min 20 s' of a run that is going on: the longest time that a stage under way has left, at its rate;
    stages that have not begun are not in it. Empty where nothing was measured yet."""
    known = [s for n in (status.get("nodes") or {}).values() if (s := seconds_left(n)) is not None]
    return format_seconds(max(known)) if known else ""


class Index:
    """Runs and sweeps of a root. Several threads may ask; one looks at a time."""

    def __init__(self, root: Root):
        self.runs = Shelf(root, root.runs, Run)
        self.sweeps = Shelf(root, root.sweeps, Sweep)
        self.error = ""
        """Why the last look failed."""
        self.looked = 0.0
        self._guard = threading.Lock()
        self._busy: threading.Thread | None = None

    def fresh(self, patience: float = PATIENCE) -> bool:
        """Look again where the last look is older than FRESH, and wait so long for it; whether what is known
        is whole."""
        with self._guard:
            if self._busy is None and time.monotonic() - self.looked > FRESH:
                self._busy = threading.Thread(target=self._look, daemon=True)
                self._busy.start()
            busy = self._busy
        if busy is not None:
            busy.join(patience)
        return self.looked > 0

    def _look(self) -> None:
        try:
            self.runs.look()
            self.sweeps.look()
            self.error = ""
        except Exception as error:  # an object store that does not answer now may do so later
            self.error = redact(str(error)) or type(error).__name__
        finally:
            self.looked = time.monotonic()
            self._busy = None

    def running(self) -> Iterable[str]:
        return (n for n, e in self.runs.entries.items() if e.status.get("state") == "running")

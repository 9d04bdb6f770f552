"""What work took: one entry for every shard and fit that was made, beside the store's content and outside
every digest.

Plans estimate hours from it, sweeps weigh accuracy against it. Entries lie in ``<root>/ledger/*.jsonl``
(:attr:`Root.ledger`); a file is written once and never changed, so that any number of drivers on any file
system can add to it. What is lost or damaged counts as not measured.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields

from diffadapt.core import checked
from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import MissingError, StoreError
from diffadapt.core.flops import passes
from diffadapt.core.stage import NodePlan, Stage
from diffadapt.core.store import Store

FLUSH_SECONDS = 20.0
FLUSH_ENTRIES = 2000
MERGE_FILES = 20
"""From so many files on :func:`merge` makes one of them."""
MERGE_AGE = 3600.0
"""Seconds after which a file may be merged: nobody is reading its name any more."""


@dataclass(frozen=True)
class Measured:
    """One shard or fit: ``seconds`` of wall time on each of ``devices`` devices called ``device`` ('cpu',
    'NVIDIA H200').

    ``samples``: images that a fit saw, passes counted (0: not known). ``resumed``: a fit that went on from a
    checkpoint, whose seconds are those of its last part. ``failures``: items set apart (-1: not known).
    """

    digest: str
    kind: str
    label: str
    family: str
    items: int
    seconds: float
    device: str = ""
    devices: int = 1
    when: float = 0.0
    samples: int = 0
    resumed: bool = False
    failures: int = -1
    calls: Mapping[str, float] = field(default_factory=dict)
    """Passes of networks an item (core/flops.py); empty: not known."""

    @property
    def device_seconds(self) -> float:
        return self.seconds * self.devices


def samples(stage: Stage, items: int) -> int:
    """Images that a fit of ``stage`` on ``items`` images sees in all, by its settings; 0 where they do not
    say."""
    config = getattr(stage, "training", None) or getattr(stage, "config", None)
    epochs, steps, batch = (getattr(config, name, 0) or 0 for name in ("epochs", "steps", "batch_size"))
    if not stage.fit_stage:
        return 0
    if per_epoch := getattr(config, "steps_per_epoch", 0):
        return int(epochs * per_epoch * batch)
    if epochs:
        return int(epochs * (getattr(stage, "epoch_images", 0) or items))
    return int(steps * batch)


class Ledger:
    """Adds entries; they reach ``place`` at most FLUSH_SECONDS later, and at :meth:`flush`.

    A place that cannot be written costs the entries, never the run.
    """

    def __init__(self, place: Store):
        self.place = place
        self._waiting: list[Measured] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, plan: NodePlan, receipt: Receipt) -> None:
        """Note a receipt of ``plan``'s node; only what was made counts."""
        if receipt.status != "made":
            return
        entry = Measured(
            receipt.digest,
            plan.stage.kind,
            plan.stage.label(),
            plan.family,
            receipt.items,
            receipt.seconds,
            receipt.device,
            receipt.devices,
            time.time(),
            samples(plan.stage, receipt.items),
            receipt.resumed,
            len(receipt.failures),
            passes(plan.calls),
        )
        with self._lock:
            self._waiting.append(entry)
            full = len(self._waiting) >= FLUSH_ENTRIES
            if self._timer is None and not full:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if full:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            entries, self._waiting = self._waiting, []
            if entries:
                try:
                    _write(self.place, entries)
                except StoreError:
                    self._waiting = entries[-FLUSH_ENTRIES + 1 :]  # tried again with the next


def read(place: Store) -> list[Measured]:
    """The newest entry of each shard and fit, oldest first; a damaged line or file counts as absent."""
    result: dict[str, Measured] = {}
    for m in sorted(_entries(place, _files(place)), key=lambda m: m.when):
        result.pop(m.digest, None)
        result[m.digest] = m
    return list(result.values())


def by_digest(place: Store) -> dict[str, Measured]:
    """The newest entry of each shard and fit."""
    return {m.digest: m for m in read(place)}


def merge(place: Store, *, older_than: float = MERGE_AGE) -> int:
    """Make one file of many older than ``older_than`` seconds, without what newer entries replace; returns
    how many it replaced.

    The whole is written before its parts go, so that a reader finds an entry twice rather than not at all.
    """
    limit = (time.time() - older_than) * 1e9
    files = [name for name in _files(place) if int(name.partition("-")[0]) <= limit]
    if len(files) < MERGE_FILES:
        return 0
    newest: dict[str, Measured] = {}
    for m in sorted(_entries(place, files), key=lambda m: m.when):
        newest[m.digest] = m
    if newest:
        _write(place, list(newest.values()))
    for name in files:
        place.remove(name)
    return len(files)


def _files(place: Store) -> list[str]:
    return sorted(n for n in place.list("") if n.endswith(".jsonl") and n.partition("-")[0].isdigit())


def _entries(place: Store, names: list[str]) -> Iterable[Measured]:
    with ThreadPoolExecutor(1 if place.local else 16) as pool:
        for data in pool.map(lambda name: _bytes(place, name), names):
            for line in data.decode(errors="replace").splitlines():
                try:
                    yield _entry(line)
                except (ValueError, TypeError, AttributeError):
                    continue


def _bytes(place: Store, name: str) -> bytes:
    try:
        return place.read_bytes(name)
    except MissingError:  # another process merged it this moment
        return b""


def _entry(line: str) -> Measured:
    """Raises ValueError or TypeError for what is no entry, or damaged; fields of later versions are left
    out."""
    value = checked.from_json(line.encode())
    m = Measured(**{f.name: value[f.name] for f in fields(Measured) if f.name in value})
    numbers = (m.items, m.seconds, m.devices, m.when, m.samples)
    if not all(
        isinstance(n, (int, float)) and math.isfinite(n) and n >= 0 for n in numbers
    ) or not isinstance(m.digest, str):
        raise ValueError(value)
    if not isinstance(m.calls, dict) or not all(
        isinstance(n, (int, float)) and math.isfinite(n) and n > 0 for n in m.calls.values()
    ):
        raise ValueError(value)
    return m


def _write(place: Store, entries: Iterable[Measured]) -> None:
    lines = b"".join(checked.to_json(asdict(m), indent=None) + b"\n" for m in entries)
    place.write_bytes(f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(3)}.jsonl", lines)

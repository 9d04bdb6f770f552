"""What work took: one entry for every shard and fit that was made, beside the store's content and outside every digest.

Plans estimate hours from it, sweeps weigh accuracy against it. Entries lie in ``<root>/ledger/*.jsonl`` (:attr:`Root.ledger`); a
file is written once and never changed, so that any number of drivers on any file system can add to it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass

from diffadapt.core.artifact import Receipt
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store

FLUSH_SECONDS = 20.0
FLUSH_ENTRIES = 2000


@dataclass(frozen=True)
class Measured:
    """One shard or fit: ``seconds`` of wall time on each of ``devices`` devices called ``device`` ('cpu', 'NVIDIA H200')."""

    digest: str
    kind: str
    label: str
    family: str
    items: int
    seconds: float
    device: str = ""
    devices: int = 1
    when: float = 0.0

    @property
    def device_seconds(self) -> float:
        return self.seconds * self.devices


class Ledger:
    """Adds entries; they reach ``place`` at most FLUSH_SECONDS later, and at :meth:`flush`."""

    def __init__(self, place: Store):
        self.place = place
        self._waiting: list[Measured] = []
        self._written = time.monotonic()

    def add(self, plan: NodePlan, receipt: Receipt) -> None:
        """Note a receipt of ``plan``'s node; only what was made counts."""
        if receipt.status != "made":
            return
        self._waiting.append(
            Measured(
                receipt.digest, plan.stage.kind, plan.stage.label(), plan.family, receipt.items, receipt.seconds, receipt.device, receipt.devices, time.time()
            )
        )
        if len(self._waiting) >= FLUSH_ENTRIES or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            lines = "".join(json.dumps(asdict(m)) + "\n" for m in self._waiting)
            self.place.write_bytes(f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(3)}.jsonl", lines.encode())
            self._waiting = []
        self._written = time.monotonic()


def read(place: Store) -> list[Measured]:
    """Every entry, oldest file first; a damaged line counts as absent."""
    found = []
    for name in sorted(place.list("")):
        for line in place.read_bytes(name).decode(errors="replace").splitlines() if name.endswith(".jsonl") else ():
            try:
                found.append(Measured(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return found


def by_digest(place: Store) -> dict[str, Measured]:
    """The newest entry of each shard and fit."""
    return {m.digest: m for m in read(place)}

"""Progress of a run: shards done, images a second and time left for each stage, on a terminal or as log
lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from diffadapt.core.artifact import Receipt
from diffadapt.core.redact import redact
from diffadapt.core.units import format_seconds


@dataclass
class NodeProgress:
    shards: int
    items: int
    done: int = 0
    hits: int = 0
    failed: int = 0
    made_items: int = 0
    quarantined: int = 0
    first: float = 0.0
    last: float = 0.0
    step: int = 0
    steps: int = 0
    first_step: int = 0
    note: str = ""

    def rate(self) -> float:
        """Images a second since the node's first shard began."""
        elapsed = self.last - self.first
        return self.made_items / elapsed if elapsed > 0 and self.made_items else 0.0

    def left(self) -> float | None:
        """Seconds left, or None when nothing was measured yet."""
        if self.steps:
            taken = self.step - self.first_step
            return (
                (self.last - self.first) / taken * (self.steps - self.step)
                if taken > 0 and self.step < self.steps
                else None
            )
        todo = self.shards - self.done - self.hits
        made = self.done
        return (self.last - self.first) / made * todo if made and todo > 0 else None

    def as_dict(self) -> dict[str, Any]:
        return {
            k: getattr(self, k)
            for k in ("shards", "done", "hits", "failed", "items", "quarantined", "step", "steps", "note")
        } | {"images_per_second": round(self.rate(), 3), "seconds_left": self.left()}


@dataclass
class Progress:
    """Collects receipts; prints a live line on a terminal, or a log line at most every ``interval``
    seconds."""

    nodes: dict[str, NodeProgress]
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    interval: float = 5.0
    _printed: float = 0.0
    _width: int = 0

    def receipt(self, receipt: Receipt) -> None:
        node = self.nodes[receipt.node]
        now = time.monotonic()
        if receipt.status == "made":
            if not node.first:
                node.first = now - receipt.seconds
            node.last = now
            node.done += 1
            node.made_items += receipt.items
        elif receipt.status == "hit":
            node.hits += 1
        else:
            node.failed += 1
        node.quarantined += len(receipt.failures)
        if not (node.steps and receipt.status == "made"):  # the fit's last step has said so
            self.show(receipt.node, force=node.done + node.hits == node.shards)

    def fit(self, name: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        node = self.nodes[name]
        now = time.monotonic()
        if not node.first:
            node.first, node.first_step = now, step
        node.step, node.steps, node.last = step, total, now
        node.note = f"loss {scalars['loss']:.4f}" if "loss" in scalars else ""
        self.show(name, force=step == total)

    def show(self, name: str, force: bool = False) -> None:
        now = time.monotonic()
        live = self.stream.isatty()
        if not force and now - self._printed < (0.2 if live else self.interval):
            return
        self._printed = now
        line = self.line(name)
        if live:
            padded = line.ljust(self._width)
            self._width = len(line)
            self.stream.write(f"\r{padded}" + ("\n" if force else ""))
            if force:
                self._width = 0
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def say(self, sentence: str, kind: str = "warning: ") -> None:
        """A warning, or what ``kind`` says before it, on a line of its own."""
        blank = "\r" + " " * self._width + "\r" if self._width else ""
        self.stream.write(f"{blank}{kind}{redact(sentence)}\n")
        self._width = 0
        self.stream.flush()

    def line(self, name: str) -> str:
        node = self.nodes[name]
        if node.steps:
            left = node.left()
            return f"{name:<22} step {node.step}/{node.steps}  {node.note}" + (
                f"  {format_seconds(left)} left" if left is not None else ""
            )
        left = node.left()
        parts = [f"{name:<22} {node.done + node.hits}/{node.shards} shards"]
        if node.hits:
            parts.append(f"{node.hits} from the store")
        if node.rate():
            parts.append(f"{node.rate():.1f} images/s")
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        if node.quarantined:
            parts.append(f"{node.quarantined} quarantined")
        return "  ".join(parts)

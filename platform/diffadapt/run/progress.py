"""Progress of a run. On a terminal the running stages and, below them, one bar for the whole run are drawn
anew in place, and finished stages leave a line above (as cargo and uv do); elsewhere, and with TERM=dumb, log
lines."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from diffadapt.core.artifact import Receipt
from diffadapt.core.redact import redact
from diffadapt.core.terminal import columns, cut, redrawn
from diffadapt.core.units import brief_seconds, format_seconds

ENOUGH = 2.0
"""Seconds of a stage's work from which on a rate says something."""
SHOWN = 5
"""Running stages with a line of their own."""
BAR = 24
LIVE, LOG = 0.2, 5.0
"""Seconds between two pictures on a terminal, and between two lines elsewhere."""


@dataclass
class NodeProgress:
    """How far one stage is. ``first``, ``last``: when its first shard began and its last one ended, by the
    monotonic clock (0: not yet). ``spent``: seconds of work of its finished shards; ``each``: seconds that
    one is known to take from earlier work (None: never measured)."""

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
    spent: float = 0.0
    each: float | None = None

    @property
    def todo(self) -> int:
        """Shards that are neither there nor given up."""
        return max(0, self.shards - self.done - self.hits - self.failed)

    @property
    def running(self) -> bool:
        return bool(self.first and self.todo and not (self.steps and self.step == self.steps))

    def rate(self) -> float:
        """Images a second since the node's first shard began; 0.0 where that is not measured over two shards,
        or all of the stage's work, and ENOUGH seconds."""
        elapsed = self.last - self.first
        whole = self.done > 1 or not self.todo
        return self.made_items / elapsed if elapsed >= ENOUGH and whole else 0.0

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

    def work(self) -> tuple[float, float | None]:
        """(seconds of work done, seconds of work to do; None where nothing tells): of one worker, whatever
        the number that share it."""
        todo, spent = self.todo, self.spent
        each = self.spent / self.done if self.done else self.each
        if self.steps and self.step < self.steps and todo:
            spent += self.last - self.first
            if (open_fit := self.left()) is not None:
                others = 0.0 if todo == 1 else None if each is None else each * (todo - 1)
                return spent, None if others is None else open_fit + others
        elif self.steps and self.step == self.steps and todo and not self.done:
            return spent + self.last - self.first, (todo - 1) * (self.last - self.first)
        return spent, 0.0 if not todo else None if each is None else each * todo

    def as_dict(self) -> dict[str, Any]:
        return {
            k: getattr(self, k)
            for k in ("shards", "done", "hits", "failed", "items", "quarantined", "step", "steps", "note")
        } | {"images_per_second": round(self.rate(), 3), "seconds_left": self.left()}


@dataclass
class Progress:
    """Collects receipts; draws what runs on a terminal, or prints a log line at most every ``interval``
    seconds."""

    nodes: dict[str, NodeProgress]
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    interval: float = LOG
    estimates = True
    """Whether it shows the time left of stages that have not begun."""
    _printed: float = 0.0
    _drawn: int = 0
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def drawing(self) -> bool:
        """Whether a picture stands on the terminal, which other lines would tear."""
        return bool(self._drawn)

    def begin(self) -> None:
        """Work begins: nothing has come yet, and the bar is there."""
        if self.nodes and redrawn(self.stream):
            self._redraw()

    def receipt(self, receipt: Receipt) -> None:
        node = self.nodes[receipt.node]
        now = time.monotonic()
        if receipt.status == "made":
            if not node.first:
                node.first = now - receipt.seconds
            node.last = now
            node.done += 1
            node.spent += receipt.seconds
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
        """What is new of the stage ``name``; ``force``: it is finished, and its line stays."""
        now = time.monotonic()
        live = redrawn(self.stream)
        if not force and now - self._printed < (LIVE if live else self.interval):
            return
        self._printed = now
        if live:
            self._redraw(f"{cut(self.line(name), columns(self.stream) - 1)}\n" if force else "")
            return
        whole = "" if force or len(self.nodes) < 2 else f"  (of all: {self.whole()})"
        self._write(f"{self.line(name)}{whole}\n")

    def say(self, sentence: str, kind: str = "warning: ") -> None:
        """A warning, or what ``kind`` says before it, on a line of its own."""
        self.above(f"{kind}{redact(sentence)}")

    def above(self, line: str) -> None:
        """A line of others that does not run into what is drawn."""
        if self._drawn:
            self._redraw(f"{line}\n")
        else:
            self._write(f"{line}\n")

    def close(self) -> None:
        """Nothing more comes: what is drawn makes room."""
        with self._lock:
            if self._drawn:
                self._write(self._erased())
                self._drawn = 0

    def line(self, name: str) -> str:
        """How far one stage is; of a finished one, how long it took."""
        node = self.nodes[name]
        took = node.last - node.first if node.first else None
        if node.steps:
            left = node.left()
            return "  ".join(
                [f"{name:<22} step {node.step}/{node.steps}"]
                + [node.note] * bool(node.note)
                + ([f"{format_seconds(left)} left"] if left is not None else [])
                + ([brief_seconds(took)] if took and node.step == node.steps else [])
            )
        left = node.left()
        parts = [f"{name:<22} {node.done + node.hits}/{node.shards} shards"]
        if node.hits:
            parts.append(f"{node.hits} from the store")
        if took is not None and not node.todo:
            parts.append(brief_seconds(took))
        if node.rate():
            parts.append(f"{node.rate():.1f} images/s")
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        if node.quarantined:
            parts.append(f"{node.quarantined} quarantined")
        return "  ".join(parts)

    def whole(self) -> str:
        """Shards of the whole run and the time left of all its stages."""
        left, known = self.seconds_left()
        text = f"{sum(n.done + n.hits for n in self.nodes.values())}/{self._shards()} shards"
        if left is None:
            return text
        return f"{text}  {'about' if known else 'at least'} {format_seconds(left)} left"

    def seconds_left(self) -> tuple[float | None, bool]:
        """(seconds until the last stage ends, whether every stage's work is known). Work that is left goes on
        as fast as the work that was done: as many workers are busy. None before anything is done, and at the
        end."""
        works = [n.work() for n in self.nodes.values()]
        spent, todo = sum(w[0] for w in works), sum(w[1] or 0.0 for w in works)
        began = [n.first for n in self.nodes.values() if n.first]
        elapsed = max((n.last for n in self.nodes.values()), default=0.0) - min(began, default=0.0)
        if not began or not spent or not todo or elapsed <= 0:
            return None, False
        longest = max((n.left() or 0.0 for n in self.nodes.values() if n.running), default=0.0)
        return max(longest, todo / max(1.0, spent / elapsed)), all(w[1] is not None for w in works)

    def share(self) -> float:
        """How much of the run's work is done, 0 to 1; stages whose work nothing tells count as the mean of
        the others."""
        works = [(n, *n.work()) for n in self.nodes.values()]
        known = [(n.shards - n.hits, spent + todo) for n, spent, todo in works if todo is not None]
        shards, seconds = (sum(column) for column in zip(*known, strict=True)) if known else (0, 0.0)
        each = seconds / shards if shards and seconds else 1.0
        done = sum(spent for _, spent, _ in works)
        todo = sum(n.todo * each if t is None else t for n, _, t in works)
        if not seconds:  # nothing is measured: shards count alike
            done = float(sum(n.done for n in self.nodes.values()))
            todo = float(sum(n.todo for n in self.nodes.values()))
        return done / (done + todo) if done + todo else 1.0

    def _shards(self) -> int:
        return sum(n.shards for n in self.nodes.values())

    def _picture(self) -> list[str]:
        """The running stages, and the bar."""
        width = columns(self.stream) - 1
        running = [name for name, n in self.nodes.items() if n.running]
        lines = [f"  {self.line(name)}" for name in running[:SHOWN]]
        if len(running) > SHOWN:
            lines.append(f"  and {len(running) - SHOWN} more stages")
        share = min(1.0, self.share())
        full = int(BAR * share)
        bar = f"[{'=' * full}{'>' * (full < BAR)}{' ' * (BAR - full - 1)}]"
        return [cut(line, width) for line in [*lines, f"{bar} {100 * share:3.0f} %  {self.whole()}"]]

    def _redraw(self, above: str = "") -> None:
        """The picture as it is now in place of the last one, with what stays ``above`` it; one write, so that
        it does not flicker."""
        with self._lock:
            lines = self._picture() if any(n.todo for n in self.nodes.values()) else []
            self._write(self._erased() + above + "\n".join(lines))
            self._drawn = len(lines)

    def _erased(self) -> str:
        """What takes away the last picture: to its first line, and all from there on."""
        return "\r" + "\x1b[A" * (self._drawn - 1) + "\x1b[J" if self._drawn else ""

    def _write(self, text: str) -> None:
        with self._lock:
            self.stream.write(text)
            self.stream.flush()

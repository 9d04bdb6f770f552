"""Two small actors on the driver's node: what every pool actor has open, and news from training workers.

They carry names and numbers only; results are in the store, so nothing is lost with them.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass
class OpenWork:
    """One pool actor: where it runs, how to reach it, and the shard it has open."""

    handle: Any
    node: str
    since: float
    digest: str | None = None
    moved: float = 0.0
    """When its process was last seen to get on."""


@ray.remote(num_cpus=0)
class Journal:
    """Knows which shard each pool actor has open, and how often each shard was begun."""

    def __init__(self) -> None:
        self.actors: dict[str, OpenWork] = {}
        self.begun: Counter[str] = Counter()
        self.unfinished: dict[str, str] = {}
        self.stood: set[str] = set()

    def new_pool(self) -> None:
        """The actors of the last pool are gone; how often each shard was begun is kept."""
        self.actors.clear()

    def register(self, actor: str, node: str, handle: Any) -> None:
        """Called by a pool actor whenever its process starts; what it had open before is then lost work."""
        self.actors[actor] = OpenWork(handle, node, time.monotonic())

    def begin(self, actor: str, digest: str, label: str) -> None:
        self.begun[digest] += 1
        self.unfinished[digest] = label
        self.actors[actor].digest = digest
        self.actors[actor].moved = time.monotonic()

    def moved(self, actor: str) -> None:
        """Called by a pool actor from time to time, as long as its work gets on."""
        if actor in self.actors:
            self.actors[actor].moved = time.monotonic()

    def stand_still(self, alive: set[str], seconds: float) -> list[tuple[Any, str]]:
        """(handle, label) of each actor on a living node whose open shard has not got on for ``seconds``;
        told once."""
        limit, result = time.monotonic() - seconds, []
        for work in self.actors.values():
            if work.digest in self.unfinished and work.node in alive and work.moved < limit:
                label = self.unfinished[work.digest]
                result.append((work.handle, label))
                self.stood.add(work.digest)
                work.moved = math.inf
        return result

    def stood_still(self) -> set[str]:
        """Digests of shards that have been told by :meth:`stand_still`."""
        return self.stood

    def end(self, actor: str, digest: str) -> None:
        self.unfinished.pop(digest, None)
        self.actors[actor].digest = None

    def fatal(self, attempts: int) -> dict[str, str]:
        """Digest -> label of shards that were begun at least ``attempts`` times and never came to an end."""
        return {d: label for d, label in self.unfinished.items() if self.begun[d] >= attempts}

    def busy(self, alive: set[str]) -> bool:
        """Whether any actor on a living node has a shard open. One that died for good leaves a shard that
        others finish."""
        return any(work.digest in self.unfinished for work in self.actors.values() if work.node in alive)

    def stranded(self, alive: set[str]) -> list[str]:
        """Actors whose node is gone and whose process has not come up elsewhere."""
        return [a for a, work in self.actors.items() if work.node not in alive]

    def everyone(self) -> list[str]:
        return list(self.actors)

    def forget(self, actors: list[str]) -> list[Any]:
        """Handles of ``actors``, which are forgotten."""
        return [self.actors.pop(a).handle for a in actors if a in self.actors]

    def count(self) -> int:
        return len(self.actors)


@ray.remote(num_cpus=0)
class Mailbox:
    """News from training workers to the driver, and what is settled and must not be tried again."""

    def __init__(self) -> None:
        self.news: deque[tuple] = deque()
        self.settled: set[str] = set()
        self.errors: dict[str, str] = {}
        self.begun: set[str] = set()

    def begin(self, group: str) -> None:
        """Called by the workers of a training group when all of them are up."""
        self.begun.add(group)

    def has_begun(self, group: str) -> bool:
        return group in self.begun

    def progress(self, node: str, step: int, total: int, scalars: dict[str, float]) -> None:
        self.news.append(("progress", node, step, total, scalars))

    def receipt(self, receipt: Any) -> None:
        """A fit's end; the first one counts."""
        if receipt.digest not in self.settled:
            self.settled.add(receipt.digest)
            self.news.append(("receipt", receipt))

    def error(self, digest: str, text: str) -> None:
        """A failure that a restart may mend."""
        self.errors[digest] = text

    def is_settled(self, digest: str) -> bool:
        return digest in self.settled

    def last_error(self, digest: str) -> str:
        return self.errors.get(digest, "")

    def drain(self) -> list[tuple]:
        """All news since the last call, oldest first."""
        news, self.news = list(self.news), deque()
        return news


def here() -> NodeAffinitySchedulingStrategy:
    """Scheduling on the driver's own node: such an actor lives exactly as long as the run can."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

"""What is left to do, and in which order: waves of shard chains and fits.

A chain is a piece of work that one actor carries through without waiting for anybody: a shard and, as soon as
it is committed, the shards that depend on nothing else unfinished (synthesised -> aligned; corrupted ->
projected). So a shard is aligned the moment its synthesis is committed, and no accelerator waits for another
stage to finish. A shard that fans out into several shards of one stage ends its chain, so that these spread
over the actors.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from diffadapt.core.artifact import Shard
from diffadapt.core.sealed import SUCCESS
from diffadapt.core.stage import InputFile, NodePlan, PlannedShard
from diffadapt.core.store import Store


@dataclass(frozen=True)
class Task:
    """One shard to make, with its inputs located."""

    node: str
    shard: Shard
    digest: str
    path: str
    inputs: tuple[InputFile, ...]
    max_failed: float = 1.0
    """The fraction of its items that may be set apart, which a fit counts before it trains."""


@dataclass(frozen=True)
class Chain:
    """Tasks for one actor, in order."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Wave:
    """Work that can be done now: chains of shards, then fits (independent of each other)."""

    chains: tuple[Chain, ...]
    fits: tuple[Task, ...]

    def __bool__(self) -> bool:
        return bool(self.chains or self.fits)

    def digests(self) -> set[str]:
        """Of all its shards and fits."""
        return {t.digest for c in self.chains for t in c.tasks} | {t.digest for t in self.fits}


def finished(plans: Mapping[str, NodePlan], store: Store) -> set[str]:
    """Digests of all planned shards and fits that are in the store (virtual ones count as finished)."""
    done: set[str] = set()
    fits: dict[str, str] = {}
    shards: list[PlannedShard] = []
    for plan in plans.values():
        if not plan.stage.stored:
            done.update(p.digest for p in plan.shards)
        elif plan.stage.fit_stage:
            fits.update((f"{p.path}/{SUCCESS}", p.digest) for p in plan.shards)
        else:
            shards.extend(plan.shards)
    done.update(fits[name] for name in store.existing(list(fits)))
    names = store.lists({_folder(p.path) for p in shards})
    done.update(p.digest for p in shards if _name(p.path) in names[_folder(p.path)])
    return done


def locate(plans: Mapping[str, NodePlan]) -> dict[str, InputFile]:
    """Digest -> where it is."""
    return {
        p.digest: InputFile(name, p.digest, p.path, p.shard, plan.stage.fit_stage, name, plan.stage.kind)
        for name, plan in plans.items()
        for p in plan.shards
    }


def next_wave(plans: Mapping[str, NodePlan], done: set[str], given_up: Collection[str] = ()) -> Wave:
    """Chains and fits whose inputs are finished or come earlier in the same chain. Empty when nothing is left
    that can be made.

    What is ``given_up`` is not tried, and so nothing that needs it.
    """
    where = locate(plans)
    tasks: dict[str, Task] = {}
    roots: list[str] = []
    children: dict[str, list[str]] = {}
    fits: list[Task] = []
    seen: set[str] = set()
    for name, plan in plans.items():
        for p in plan.shards:
            if (
                p.digest in done or p.digest in seen or p.digest in given_up
            ):  # two nodes may ask for the same thing; it is made once
                continue
            seen.add(p.digest)
            missing = list(dict.fromkeys(i.digest for i in p.shard.inputs if i.digest not in done))
            if plan.stage.fit_stage:
                if not missing:
                    fits.append(_task(name, p, where))
                continue
            tasks[p.digest] = _task(name, p, where)
            if not missing:
                roots.append(p.digest)
            elif len(missing) == 1:
                children.setdefault(missing[0], []).append(p.digest)
    chains = []
    for root in roots:
        order, todo = [tasks[root]], deque([root])
        while todo:
            for child in _alone(children.get(todo.popleft(), ()), tasks):
                order.append(tasks[child])
                todo.append(child)
        chains.append(Chain(tuple(order)))
    return Wave(tuple(chains), tuple(fits))


class Flow:
    """What can be done while work goes on, each shard and fit once: first what :func:`next_wave` finds, then
    whatever what was finished since has made possible."""

    def __init__(self, plans: Mapping[str, NodePlan], done: Collection[str], given_up: Collection[str] = ()):
        self.plans, self.given_up = plans, given_up
        self.out: set[str] = set()
        """Digests of all that was handed out."""
        self._done = set(done)
        self._waits: dict[str, int] = {}
        self._needed_by: dict[str, list[str]] = defaultdict(list)
        self._new = True

    def more(self) -> Wave:
        """What is possible by now and was not handed out yet."""
        if not self._new:
            return Wave((), ())
        first, self._new = not self.out, False
        wave = next_wave(self.plans, self._done, {*self.given_up, *self.out})
        self.out |= wave.digests()
        if first:
            self._count()
        return wave

    def fits(self) -> int:
        """How many fits are not finished, nor given up."""
        every = {p.digest for plan in self.plans.values() if plan.stage.fit_stage for p in plan.shards}
        return len(every - self._done - set(self.given_up))

    def finish(self, digest: str) -> None:
        """Told of every shard and fit that is in the store now."""
        self._done.add(digest)
        for other in self._needed_by.pop(digest, ()):
            self._waits[other] -= 1
            self._new = self._new or not self._waits[other]

    def _count(self) -> None:
        """What was not handed out at first, by what it waits for."""
        for plan in self.plans.values():
            for p in plan.shards:
                if p.digest in self._done or p.digest in self.out or p.digest in self._waits:
                    continue
                missing = {i.digest for i in p.shard.inputs} - self._done
                self._waits[p.digest] = len(missing)
                for digest in missing:
                    self._needed_by[digest].append(p.digest)


def _task(name: str, planned: PlannedShard, where: Mapping[str, InputFile]) -> Task:
    """The task of a planned shard; its inputs go by the names that its own plan gives them."""
    located = ((where[i.digest], i.node) for i in planned.shard.inputs)
    inputs = tuple(file if file.node == node else replace(file, node=node) for file, node in located)
    return Task(name, planned.shard, planned.digest, planned.path or "", inputs)


def _alone(children: Sequence[str], tasks: Mapping[str, Task]) -> Sequence[str]:
    """The children that are their stage's only one here; several (images of one prompt table) are for several
    actors, a wave later."""
    if len(children) < 2:
        return children
    by_node: dict[str, list[str]] = defaultdict(list)
    for child in children:
        by_node[tasks[child].node].append(child)
    return [only[0] for only in by_node.values() if len(only) == 1]


def _folder(path: str | None) -> str:
    return (path or "").rpartition("/")[0]


def _name(path: str | None) -> str:
    return (path or "").rpartition("/")[2]

"""One shard of every stage that nothing was measured of, made for real, so that a plan can say how long the
rest takes."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import islice

from diffadapt.core.estimate import Estimate
from diffadapt.core.runs import Root, Run
from diffadapt.core.schedule import finished
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.run.families import describe_families
from diffadapt.run.progress import NodeProgress, Progress
from diffadapt.run.runner import Runner
from diffadapt.run.work import Work

PLACE = "calibration"
"""Folder of a root for the evidence of a calibration that failed."""
LOOKED_AT = 100
"""Missing shards of a stage among which the one that lacks least is looked for."""


def chosen(plans: Mapping[str, NodePlan], done: Collection[str], estimate: Estimate) -> set[str]:
    """Digests of the shards to make: for each kind and label without measurements one missing shard that
    needs no unfinished fit, with all that it lacks itself."""
    owner = {p.digest: (name, p) for name, plan in plans.items() for p in plan.shards}
    wanted: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for stage in estimate.stages:
        plan = plans[stage.name]
        key = (stage.kind, plan.stage.label())
        if stage.fit or stage.basis not in ("none", "kind", "counted") or key in seen:
            continue
        lacks = (
            _lacking(p.digest, owner, plans, done)
            for p in islice((p for p in plan.shards if p.digest not in done), LOOKED_AT)
        )
        possible = [digests for digests in lacks if digests is not None]
        if possible:
            seen.add(key)
            wanted |= min(possible, key=lambda digests: len(digests - wanted))
    return wanted


def calibrate(
    name: str,
    plans: Mapping[str, NodePlan],
    root: Root,
    digests: Collection[str],
    runner_factory: Callable[[], Runner],
) -> int:
    """Make the shards ``digests`` of ``plans`` and enter them into the ledger; returns how many were made.
    They stay in the store."""
    root.store.prepare()
    done = finished(plans, root.store)
    parts = {
        n: replace(plan, shards=tuple(p for p in plan.shards if p.digest in done or p.digest in digests))
        for n, plan in plans.items()
    }
    parts = {n: plan for n, plan in parts.items() if plan.shards}
    describe_families(root.store, plans)
    progress = Progress(
        {
            n: NodeProgress(len(p.shards), p.items)
            for n, p in parts.items()
            if any(s.digest in digests for s in p.shards)
        }
    )
    work = Work(
        Run(root, name, Store(posixpath.join(root.location, PLACE))), root.store, parts, progress, 1.0
    )
    work.run(runner_factory)
    return sum(work.made.values())


def _lacking(
    digest: str, owner: Mapping, plans: Mapping[str, NodePlan], done: Collection[str]
) -> set[str] | None:
    """The shard and all unfinished ones that it stands on; None where one of them is a fit."""
    result, todo = set(), [digest]
    while todo:
        current = todo.pop()
        if current in result or current in done:
            continue
        name, planned = owner[current]
        if plans[name].stage.fit_stage:
            return None
        result.add(current)
        todo.extend(i.digest for i in planned.shard.inputs)
    return result

"""What the trials of a sweep have in common: every shard and fit is planned for each, made once for all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from diffadapt.core.stage import NodePlan, PlannedShard

Plans = Mapping[str, NodePlan]


@dataclass(frozen=True)
class Economy:
    """Counts of shards and items of one kind of stage: over all trials one by one, once each, and of these at
    hand."""

    kind: str
    fit: bool
    apart: int
    apart_items: int
    together: int
    together_items: int
    at_hand: int
    at_hand_items: int


def merge(plans: Sequence[Plans]) -> dict[str, NodePlan]:
    """The plans of several trials as one: nodes of one family are one node with the shards of all, under a
    name of its own.

    The keys are the trials' node names, with the family appended where trials mean different things by a
    name.
    """
    families: dict[str, tuple[str, NodePlan]] = {}
    shards: dict[str, dict[str, PlannedShard]] = defaultdict(dict)
    for trial in plans:
        for name, plan in trial.items():
            families.setdefault(plan.family, (name, plan))
            for p in plan.shards:
                shards[plan.family].setdefault(p.digest, p)
    names = Counter(name for name, _ in families.values())
    merged = {}
    for family, (name, plan) in families.items():
        key = name if names[name] == 1 else f"{name}@{family[:8]}"
        merged[key] = replace(plan, name=key, shards=tuple(shards[family].values()))
    return merged


def common(plans: Sequence[Plans]) -> dict[str, NodePlan]:
    """The merged plans without what single trials do alone: shards and fits that two trials need, and every
    shard that depends on no fit of a single trial, so that all devices work on the images before the trials
    begin."""
    needed = Counter(
        digest for trial in plans for digest in {p.digest for plan in trial.values() for p in plan.shards}
    )
    merged = merge(plans)
    own: set[str] = set()
    for plan in merged.values():
        for p in plan.shards:
            if needed[p.digest] < 2 and (
                plan.stage.fit_stage or any(i.digest in own for i in p.shard.inputs)
            ):
                own.add(p.digest)
    kept = {
        name: replace(plan, shards=tuple(p for p in plan.shards if p.digest not in own))
        for name, plan in merged.items()
    }
    return {name: plan for name, plan in kept.items() if plan.shards}


def economy(plans: Sequence[Plans], done: Collection[str]) -> list[Economy]:
    """What the trials need by kind of stage, in the order of the work. ``done``: digests in the store."""
    apart, apart_items = Counter[str](), Counter[str]()
    for trial in plans:
        seen: set[str] = set()
        for plan in trial.values():
            for p in plan.shards if plan.stage.stored else ():
                if p.digest not in seen:
                    seen.add(p.digest)
                    apart[plan.stage.kind] += 1
                    apart_items[plan.stage.kind] += p.shard.items
    rows: dict[str, Economy] = {}
    for plan in merge(plans).values():
        if not plan.stage.stored:
            continue
        kind = plan.stage.kind
        row = rows.get(kind) or Economy(
            kind, plan.stage.fit_stage, apart[kind], apart_items[kind], 0, 0, 0, 0
        )
        hits = [p for p in plan.shards if p.digest in done]
        rows[kind] = replace(
            row,
            together=row.together + len(plan.shards),
            together_items=row.together_items + sum(p.shard.items for p in plan.shards),
            at_hand=row.at_hand + len(hits),
            at_hand_items=row.at_hand_items + sum(p.shard.items for p in hits),
        )
    return list(rows.values())

"""What a plan amounts to: shards and images by stage, at hand and to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffadapt.core.schedule import finished
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store


@dataclass(frozen=True)
class NodeSummary:
    name: str
    kind: str
    fit: bool
    shards: int
    missing: int
    items: int
    missing_items: int


@dataclass(frozen=True)
class PlanSummary:
    nodes: tuple[NodeSummary, ...]

    @property
    def shards(self) -> int:
        return sum(n.shards for n in self.nodes)

    @property
    def missing(self) -> int:
        return sum(n.missing for n in self.nodes)


def notes(plans: Mapping[str, NodePlan]) -> dict[str, str]:
    """What the stages have to say of the data that they found: sentence -> node, each sentence once."""
    result: dict[str, str] = {}
    for name, plan in plans.items():
        for sentence in plan.stage.notes():
            result.setdefault(sentence, name)
    return result


def summarise(plans: Mapping[str, NodePlan], store: Store) -> PlanSummary:
    """Counts for every stored stage; equal to what a run then makes."""
    done = finished(plans, store)
    nodes = []
    counted = set(done)
    for name, plan in plans.items():
        if not plan.stage.stored:
            continue
        left = [p for p in plan.shards if p.digest not in counted]
        counted.update(p.digest for p in plan.shards)  # what two nodes ask for is made once
        nodes.append(
            NodeSummary(
                name,
                plan.stage.kind,
                plan.stage.fit_stage,
                len(plan.shards),
                len(left),
                plan.items,
                sum(p.shard.items for p in left),
            )
        )
    return PlanSummary(tuple(nodes))

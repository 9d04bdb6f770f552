"""What digests stand for, in words: family.json beside the shards of a node and in the folder of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.checked import to_json
from diffadapt.core.redact import scrub
from diffadapt.core.sealed import FAMILY, family_damage
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store


def describe_families(store: Store, plans: Mapping[str, NodePlan]) -> None:
    """Write family.json where it is missing or damaged: the node's own identity and that of all it depends
    on (`cache why` compares them).

    A fit also says how many images it saw of each; a family's shards may come from plans of many sizes.
    """
    for plan in plans.values():
        if not plan.stage.stored or not plan.shards:
            continue
        path = plan.shards[0].path or ""
        folder = path if plan.stage.fit_stage else path.rpartition("/")[0]
        if store.exists(f"{folder}/{FAMILY}") and not family_damage(store, folder):
            continue
        value = {**_describe(plan), "inputs": {}}
        for name in _ancestors(plans, plan):
            value["inputs"][name] = _describe(plans[name]) | (
                {"images": plans[name].items} if plan.stage.fit_stage else {}
            )
        store.write_bytes(f"{folder}/{FAMILY}", to_json(scrub(value)))


def _describe(plan: NodePlan) -> dict[str, Any]:
    return {
        "kind": plan.stage.kind,
        "version": plan.stage.version,
        "identity": plan.stage.identity(),
        "revisions": dict(plan.revisions),
    }


def _ancestors(plans: Mapping[str, NodePlan], plan: NodePlan) -> list[str]:
    result: set[str] = set()
    todo = list(plan.inputs)
    while todo:
        name = todo.pop()
        if name not in result:
            result.add(name)
            todo.extend(plans[name].inputs)
    return [name for name in plans if name in result]

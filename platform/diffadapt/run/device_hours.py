"""What every row of a run stands on, in device time: all shards and fits that lead to its predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.ledger import Measured

FILE = "device_hours.json"
"""In the run's folder."""


def device_hours(manifest: Mapping[str, Any], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """``rows``, for each row of scores: ``row``, ``hours`` (device hours from nothing to its predictions,
    mean over its seeds and groups; work that rows share counts in each), ``kinds`` (the same by kind of
    stage), ``device``, and ``unknown`` (shards and fits whose time is not in the ledger: with any, ``hours``
    is a lower bound). ``measured``: digest -> time, as measured when it was made."""
    nodes = manifest["nodes"]
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in manifest.get("rows") or ():
        groups[row["name"]].append(row)
    out = []
    for name, rows in groups.items():
        kinds: dict[str, float] = defaultdict(float)
        devices, unknown = set(), set()
        for row in rows:
            for node in _behind(nodes, row["members"]):
                for _, digest, _, path in nodes[node]["shards"]:
                    if path is None:
                        continue
                    if (m := measured.get(digest)) is None:
                        unknown.add(digest)
                    else:
                        kinds[nodes[node]["kind"]] += m.device_seconds / 3600 / len(rows)
                        devices.add(m.device)
        out.append({
            "row": name,
            "hours": sum(kinds.values()),
            "kinds": dict(kinds),
            "device": ", ".join(sorted(d for d in devices if d)),
            "unknown": len(unknown),
        })  # fmt: skip
    return {"rows": out}


def _behind(nodes: Mapping[str, Any], members: Sequence[str]) -> set[str]:
    """The nodes ``members`` and all that they depend on."""
    found: set[str] = set()
    todo = list(members)
    while todo:
        if (node := todo.pop()) not in found:
            found.add(node)
            todo += nodes[node]["inputs"]
    return found

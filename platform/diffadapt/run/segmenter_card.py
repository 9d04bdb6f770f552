"""The card of a run's segmenter with the figures that were not known when it was trained. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.pipeline import SOURCE
from diffadapt.core.runs import Run
from diffadapt.metrics.segmentation import MIOU
from diffadapt.models.segmentation.folder import parse_marker, segmenter_card
from diffadapt.report.roles import roles

METRICS = {
    MIOU.on(place).name: f"{MIOU.title} on {where}, %"
    for place, where in {
        "": "the target",
        "source": "the source's test images",
        "estimated": "transferred test images (an estimate without the target)",
    }.items()
}


def run_card(run: Run, manifest: Mapping[str, Any], node: str, marker: Any) -> str:
    """README.md of the fitted ``node``, ``marker`` being its parsed segmenter.json: its own scores, and
    beside them those of the model of the same seed that was trained on the source alone."""
    known = parse_marker(marker, f"{node}/segmenter.json")
    nodes, rows = manifest["nodes"], manifest["rows"]
    known_roles = roles(manifest)
    mine = [r for r in rows if node in nodes[r["members"][0]]["inputs"]]
    seed = mine[0]["seed"] if mine else None
    base = [r for r in rows if r["seed"] == seed and r not in mine and known_roles[r["name"]].kind == SOURCE]
    scores = run.scores() if run.has("scores.parquet") else []
    result = {
        f"{row['name']}: {METRICS[row['metric']]}": round(s.value, 2)
        for row in (*base, *mine)
        if row["metric"] in METRICS
        for s in scores
        if (s.method, s.metric) == (row["name"], row["metric"])
        and s.seed == (manifest["seed"] if row["seed"] is None else row["seed"])
    }
    extra = {k: v for k, v in known.extra.items() if k != "metrics"}
    if domain := (manifest["config"].get("transfer") or {}).get("domain"):
        extra["data"] = _data(domain, nodes, node)
    return segmenter_card(
        known.config,
        known.classes,
        {"recipe": manifest["recipe"], "run": run.name, **extra, "metrics": result},
        known.parameters,
    )


def _data(domain: str, nodes: Mapping[str, Any], node: str) -> str:
    source, *others = nodes[node]["inputs"]
    images = sum(s[2] for s in nodes[source]["shards"])
    made = any(nodes[n]["kind"] == "transferred" for n in others)
    return (
        f"{images} labelled scenes of the source"
        + (
            f", and images that a generator made of them for the domain {domain}; no image of that domain was"
            " trained on"
            if made
            else ""
        )
        + "."
    )

"""Published mean IoU of adaptation without target images from Cityscapes, quoted beside a run's scores and
never mixed into them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffadapt.metrics.segmentation import MIOU
from diffadapt.report.summary import Summary

NETWORKS = {
    ("deeplabv3plus", "resnet50"): "DeepLabv3+ R50",
    ("deeplabv3plus", "resnet101"): "DeepLabv3+ R101",
    ("refinenet", "resnet50"): "RefineNet R50",
}
PUBLISHED_DROPOUT = (None, 0.5)
"""Runs of versions whose networks of these names were others have 0.1."""


def domain_of(config: Mapping[str, Any]) -> str:
    """The published domain that a recipe's source and target are; empty when they are another pair of data
    sets."""
    source, target = (config.get(name) or {} for name in ("source", "target"))
    if source.get("layout") != "cityscapes" or not target.get("path"):
        return ""
    name = {"acdc": str(target.get("condition") or ""), "gta5": "game"}.get(str(target.get("layout")), "")
    return name if name in read()["domains"] else ""


def beside(manifest: Mapping[str, Any], table: Summary) -> dict[str, Any] | None:
    """``domains``, ``rows`` of (method, network, a value a domain, whether it is this run's network),
    ``here`` likewise, ``column`` (this run's domain), ``remarks``; None for a run on other data or one that
    was not scored on its target."""
    config = manifest.get("config") or {}
    domain = domain_of(config)
    if not domain or table.metric != MIOU.name:
        return None
    known = read()
    segmenter = config.get("segmenter") or {}
    network = NETWORKS.get((str(segmenter.get("arch")), str(segmenter.get("backbone"))), "")
    if segmenter.get("dropout") not in PUBLISHED_DROPOUT:
        network = ""
    column = known["domains"].index(domain)
    rows = [
        (
            r["method"],
            r["network"] or "-",
            ["-" if v is None else f"{v:.1f}" for v in r["values"]],
            bool(network) and r["network"] == network,
        )
        for r in known["rows"]
    ]
    here = [
        (r.title, [f"{r.mean:.1f}" if i == column else "" for i in range(len(known["domains"]))])
        for r in table.rows
        if r.mean is not None
    ]
    used = (
        network or f"{segmenter.get('arch')} on {str(segmenter.get('backbone')).rstrip('/').split('/')[-1]}"
    )
    remarks = [known["note"], f"Here: {used}, {table.rows[0].of_images} target images."]
    if config.get("scale", 1) != 1 or not network:
        remarks.append(
            "This run has another network or resolution than the published ones, so its figures are not"
            " comparable with them."
        )
    list_of_frames = str((config.get("target") or {}).get("split_file") or "")
    if domain == "game" and posixpath.basename(list_of_frames) != known["gta5_list"]:
        remarks.append(
            f"The published figures are of {known['gta5_list']}, 1,000 of GTA5's validation frames; this"
            " run's are of other frames, so they are not comparable with them."
        )
    return {
        "domains": known["domains"],
        "rows": rows,
        "here": here,
        "network": used,
        "column": column,
        "remarks": remarks,
        "sources": list(known["sources"].values()),
    }


@lru_cache(maxsize=1)
def read() -> dict[str, Any]:
    """The file of published figures."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))

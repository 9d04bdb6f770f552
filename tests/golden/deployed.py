"""Finished runs made by hand, file by file, so that `diffadapt predict` has something to plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLASSES = {
    "name": "streets",
    "names": ["road", "car", "sky"],
    "colours": [[128, 64, 128], [0, 0, 142], [70, 130, 180]],
    "values": [0, 1, 2],
    "classes": [0, 1, 2],
    "ade": [],
    "codes": [],
}
ROLES = {
    "classifier": "own/timm",
    "finetuned": "own/mobilenetv2-q8",
    "unconditional": "own/adm",
    "model": "own/timm",
}
"""What stands for the trained folders of a run."""
CASES = {
    "of an adapted classifier": ("adapt_anything/digits", {"seeds": (0,)}),
    "of a frozen backbone's": (
        "adapt_anything/digits",
        {
            "seeds": (0,),
            "backbone.frozen": True,
            "backbone.name": "own/timm",
            "backbone.arch": None,
            "backbone.in_channels": 3,
            "backbone.mean": (0.5,) * 3,
            "backbone.std": (0.5,) * 3,
        },
    ),
    "of SDA": ("quickstart", {}),
    "of SDA with trained generators": ("quickstart", {"synth.weights": "train", "align.weights": "train"}),
    "of SDA on photos": ("sda/folder", {"source.path": "photos", "target.data.path": "photos"}),
    "of a segmenter": ("zodi/tiny", {}),
}
"""Name -> (recipe, overrides) of the finished run."""


def finish(
    root: str, name: str, recipe: str, config: Mapping[str, Any], outputs: Mapping[str, str], plans: Any
) -> None:
    """The run folder ``name`` under ``root`` with a manifest, and its trained folders in the store."""
    nodes = {}
    for node, plan in plans.items():
        shards = [[p.shard.key, p.digest, p.shard.items, p.path] for p in plan.shards]
        nodes[node] = {
            "kind": plan.stage.kind,
            "version": plan.stage.version,
            "shards": shards,
            "quarantined": [],
        }
    for role, node in outputs.items():
        if node in nodes and len(nodes[node]["shards"]) == 1 and role in ROLES:
            place = Path(root) / "store" / nodes[node]["shards"][0][3]
            shutil.copytree(ROLES[role], place, dirs_exist_ok=True)
            (place / "_SUCCESS").touch()
            if nodes[node]["kind"] == "segmenter":
                marker = {
                    "format": 1,
                    "config": config["segmenter"],
                    "classes": CLASSES,
                    "network": {},
                    "parameters": 4,
                }
                (place / "segmenter.json").write_text(json.dumps(marker, sort_keys=True))
    manifest = {
        "format": 1,
        "recipe": recipe,
        "seed": config["seed"],
        "config": config,
        "class_names": list(CLASSES["names"]),
        "outputs": dict(outputs),
        "rows": [],
        "nodes": nodes,
        "versions": {},
    }
    folder = Path(root) / "runs" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "updated": 0.0, "nodes": {}}))

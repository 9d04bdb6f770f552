"""A run's trained model as a folder for other tools, its card filled with the run's figures. No torch."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from diffadapt.core.errors import StoreError
from diffadapt.core.pipeline import SOURCE
from diffadapt.core.place import located
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.metrics import metric
from diffadapt.models.card import LIMITATIONS, classifier_card
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.segmentation.folder import MARKER
from diffadapt.report.generator import described, is_synthetic, is_toy
from diffadapt.report.provenance import optional_json
from diffadapt.report.roles import named, roles, system
from diffadapt.report.summary import summarise
from diffadapt.run.segmenter_card import run_card
from diffadapt.stages.roles import CLASSIFIERS

CARD, CONFIG = "README.md", "config.json"


def copy_model(run: Run, node: str, out: str = "") -> None:
    """Copy the fitted folder of ``node`` to the new folder ``out`` (any fsspec location), by default
    ``model/`` of the run.

    The card of a classifier or segmenter is written anew, with figures that were not known when it was
    trained. StoreError when the model is no longer in the store.
    """
    manifest = run.manifest()
    for name, data in model_files(run, manifest, node):
        if out:
            fs, root = located(out)
            place = posixpath.join(root, name)
            fs.makedirs(posixpath.dirname(place), exist_ok=True)
            fs.pipe_file(place, data)
        else:
            run.write(f"model/{name}", data)


def model_files(run: Run, manifest: Mapping[str, Any], node: str) -> Iterator[tuple[str, bytes]]:
    """(relative name, bytes) of every file of a fitted folder; the card of a classifier or segmenter as it is
    to be read outside."""
    path = manifest["nodes"][node]["shards"][0][3]
    fitted = Sealed(run.root.store, path)
    kind = manifest["nodes"][node]["kind"]
    if not fitted.exists():
        raise StoreError(
            f"The trained model {path} of the run {run.name} is no longer in the store: run its recipe again"
            " to remake it."
        )
    for name, data in fitted.contents():
        if name == CARD and kind in CLASSIFIERS:
            config = fitted.read_json(CONFIG)
            if "label_names" in config:
                data = model_card(run, manifest, node, config).encode()
        elif name == CONFIG and kind in CLASSIFIERS:
            data = _true_view(manifest, data)
        elif name == CARD and kind == "segmenter":
            data = run_card(run, manifest, node, fitted.read_json(MARKER)).encode()
        yield name, data


def _true_view(manifest: Mapping[str, Any], data: bytes) -> bytes:
    """config.json of a classifier with the evaluation view that the run's predictions saw: models that are
    served from before recipes had one say the centre crop."""
    values = json.loads(data)
    settings = manifest["config"].get("backbone") or manifest["config"]["classifier"]
    own, view = values.get("pretrained_cfg"), settings.get("crop_mode") or "center"
    if not isinstance(own, dict) or own.get("crop_mode", "center") == view:
        return data
    values["pretrained_cfg"] = {**own, "crop_mode": view}
    return (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode()


def model_card(run: Run, manifest: Mapping[str, Any], node: str, config: Mapping[str, Any]) -> str:
    """The card of a classifier folder with the run's figures; ``config``: its config.json."""
    settings = manifest["config"].get("backbone") or manifest["config"]["classifier"]
    known = {f.name for f in fields(ClassifierConfig)}
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known
    }
    extra = dict(config.get("diffadapt") or {})
    kept = {
        name: extra.pop(name) for name in ("selection", "generator", "data", "limitations") if name in extra
    }
    for name in ("metrics", "recipe", "recipe_digest"):
        extra.pop(name, None)
    added = (
        _adapted(run, manifest, node)
        if system(manifest) == "adapt_anything"
        else {"metrics": _of_shifts(run, manifest, node)}
    )
    return classifier_card(
        arch=config["architecture"],
        config=ClassifierConfig(**given),
        class_names=config["label_names"],
        extra={
            **extra,
            "recipe": manifest["recipe"],
            "recipe_digest": run.name.rpartition("-")[2],
            **kept,
            **added,
        },
    )


def _of_shifts(run: Run, manifest: Mapping[str, Any], node: str) -> dict[str, float]:
    """SDA: the mean accuracy of the rows that this model is a member of, and of Source."""
    if not run.has("scores.parquet"):
        return {}
    mine = {r["name"] for r in manifest["rows"] if any(m.startswith(f"{node}_on_") for m in r["members"])}
    table = summarise(run.scores())
    rows = [r for r in table.rows if (r.method in mine or r is table.reference) and r.mean is not None]
    return {f"{r.method}: mean top-1 over {len(r.cells)} shifts, %": round(r.mean or 0, 2) for r in rows}


def _adapted(run: Run, manifest: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Adapt Anything: the accuracies of the steps up to this model (of its own seed and transfer), or
    label-free scores."""
    nodes, rows = manifest["nodes"], manifest["rows"]
    models = {node, *nodes[node]["inputs"]} if nodes[node]["kind"] == "classifier" else {node}
    mine = next((r for r in rows if models & set(nodes[r["members"][0]]["inputs"])), None)
    made: dict[str, Any] = {
        "data": _data(manifest),
        "limitations": [text for text in LIMITATIONS if is_synthetic(manifest) or "ynthetic" not in text],
    }
    if generator := described(manifest):
        made["generator"] = generator
        if is_toy(manifest):
            made["limitations"].insert(
                0,
                "The generator of the training images is a toy that draws digits and letters; expect little"
                " of this model elsewhere.",
            )
    if mine is None:
        return made
    made["selection"] = mine.get("selection") or "last"
    known, seed = roles(manifest), manifest["seed"] if mine.get("seed") is None else mine["seed"]
    path = [mine["name"]]
    while not mine.get("control") and (start := known[path[0]].partner) in known:
        path.insert(0, start)
    baseline = named(known, "zero_shot")
    names = dict.fromkeys((*baseline[:1], *named(known, SOURCE)[:1], *path))
    scores = run.scores() if run.has("scores.parquet") else []
    result = {
        f"{name}: {metric(s.metric).title} on the target, %": round(s.value, 2)
        for name in names
        for s in scores
        if s.method == name
        and (s.seed == seed or name in baseline)
        and (not mine.get("group") or s.group == mine["group"])
    }
    if not result:
        scored = (optional_json(run, "validators.json").get("nodes") or {}).get(mine["members"][0]) or {}
        result = {
            f"{name} (label-free: no accuracy is known)": round(float(value), 4)
            for name, value in scored.items()
        }
    return {**made, "metrics": result}


def _data(manifest: Mapping[str, Any]) -> str:
    config, target = (
        manifest["config"],
        manifest["nodes"].get((manifest.get("outputs") or {}).get("target"), {}),
    )
    count = sum(s[2] for s in target.get("shards") or ())
    what = f" ({config['domain']})" if config.get("domain") else ""
    oracle = (config.get("select") or {}).get("rule") == "oracle"
    labels = (
        "the labels of these images chose the epoch (oracle)"
        if oracle
        else "their labels, where there are any, served for scores alone"
    )
    return f"Adapted to {count} images{what} without training on their labels; {labels}."

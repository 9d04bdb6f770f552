"""``diffadapt export``: a run's images as folder trees that other tools read, its trained models as folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.runs import Run


@dataclass(frozen=True)
class ExportOptions(RootOption):
    run: tyro.conf.Positional[str] = "last"
    """A run's name or prefix, or 'last'."""
    what: str = "finetuned"
    """A stage of the run: synth, aligned, target, projected, ... (images), or finetuned, generator, unconditional, ... (models)."""
    out: str = ""
    """Folder to write; must be new or empty."""
    layout: Literal["imagefolder", "imagenet-c-syn", "flat"] = "imagefolder"
    """imagefolder: class folders; imagenet-c-syn: corruption/severity/class/name; flat: one folder and labels.csv."""


def export(argv: Sequence[str]) -> int:
    options = parse(ExportOptions, argv, "export")
    run = options.open().run(options.run)
    manifest = run.manifest()
    nodes = manifest["nodes"]
    if options.what not in nodes:
        raise StoreError(f"The run {run.name} has no stage {options.what!r}.{suggest(options.what, nodes)} It has: {', '.join(nodes)}.")
    if not options.out:
        raise StoreError("Give --out, the folder to write.")
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{options.out!r} exists and is not empty: give another --out.")
    node = nodes[options.what]
    paths = [path for _, _, _, path in node["shards"]]
    if any(p is None for p in paths):
        raise StoreError(f"{options.what!r} are your own files, read where they are; there is nothing to export.")
    if node["kind"] in ("synth", "aligned", "corrupted"):
        return _images(run, manifest, paths, options)
    if not paths or not run.root.store.exists(f"{paths[0]}/_SUCCESS"):
        raise StoreError(f"{options.what!r} holds predictions, not images or a model: read its Parquet files under {run.root.store.root}.")
    return _model(run, manifest, paths[0], options)


def _images(run: Run, manifest: dict[str, Any], paths: Sequence[str], options: ExportOptions) -> int:
    from diffadapt.data.export import write_tree

    def rows():
        for path in paths:
            rows = run.root.store.load(path)
            for key, label, image in zip(rows.column("key"), rows.column("label"), rows.column("image"), strict=True):
                yield (_key(key, options.layout), label, image["bytes"])

    names = manifest["class_names"] or None
    count = write_tree(rows(), options.out, options.layout, class_names=names)
    print(f"{count} images in {options.out}")
    return 0


def _key(key: str, layout: str) -> str:
    """Keys are corruption/severity/path; class folders keep the corruption in the file's name instead."""
    group, severity, rest = key.split("/", 2)
    group = group.partition("(")[0]  # frost(procedural) lies where frost does
    if layout == "imagenet-c-syn":
        return f"{group}/{severity}/{rest}"
    head, _, name = rest.rpartition("/")
    stem = name if group in ("synthetic", "clean", "target") else f"{group}-{severity}-{name}"
    return f"{head}/{stem}" if head else stem


def _model(run: Run, manifest: dict[str, Any], path: str, options: ExportOptions) -> int:
    store = run.root.store
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    store.fs.get(store.join(path).rstrip("/") + "/", str(out) + "/", recursive=True)
    for name in ("_SUCCESS", "family.json"):
        if (out / name).exists():
            os.remove(out / name)
    if manifest["nodes"][options.what]["kind"] == "classifier":
        _card(run, manifest, out, options.what)
    print(f"{options.what} of {run.name} in {options.out}")
    return 0


def _card(run: Run, manifest: dict[str, Any], out: Path, node: str) -> None:
    """Rewrite the model card with the run's figures, which were not known when the model was trained."""
    import json

    from diffadapt.core.config import from_dict
    from diffadapt.models.card import classifier_card
    from diffadapt.models.config import ClassifierConfig
    from diffadapt.report.summary import summarise

    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    mine = {r["name"] for r in manifest["rows"] if any(m.startswith(f"{node}_on_") for m in r["members"])} | {"Source"}
    rows = [r for r in summarise(run.scores()).rows if r.method in mine and r.mean is not None] if run.has("scores.parquet") else []
    metrics = {f"{r.method}: mean top-1 over {len(r.cells)} shifts, %": round(r.mean or 0, 2) for r in rows}
    extra = dict(config.get("diffadapt", {}))
    extra |= {f"training: {k}": v for k, v in extra.pop("training", {}).items()}
    card = classifier_card(
        arch=config["architecture"], config=from_dict(ClassifierConfig, manifest["config"]["classifier"]), class_names=config["label_names"],
        metrics=metrics, recipe=manifest["recipe"], recipe_digest=run.name.rpartition("-")[2], extra=extra,
    )  # fmt: skip
    (out / "README.md").write_text(card, encoding="utf-8")

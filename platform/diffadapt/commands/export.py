"""``diffadapt export``: a run's images as folder trees that other tools read, its trained models as
folders."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.place import demand_empty, new_folder, write_file
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.core.spreadsheet import csv_bytes

IMAGES, PROMPTS = ("synth", "aligned", "corrupted", "student-images"), "prompts.csv"
Layout = Literal["imagefolder", "imagenet-c-syn", "flat"]
KINDS = {"features": "cached features"}
"""What lies in the shards of kinds that are not exported; predictions otherwise."""


@dataclass(frozen=True)
class ExportOptions(RootOption):
    run: tyro.conf.Positional[str] = "last"
    """A run's name or prefix, or 'last'."""
    what: str = "model"
    """model: the adapted (SDA: fine-tuned) classifier or segmenter; or a stage of the run: synth, aligned,
    target, projected, ... (images), transferred (images, label maps, boxes, class table), prompts (CSV), or
    finetuned, generator, unconditional, source_only, ... (models)."""
    out: str = ""
    """Folder to write; must be new or empty."""
    layout: Layout = "imagefolder"
    """imagefolder: class folders; imagenet-c-syn: corruption/severity/class/name; flat: one folder and
    labels.csv."""


def export(argv: Sequence[str]) -> int:
    from diffadapt.run.outputs import copy_model

    options = parse(ExportOptions, argv, "export")
    run = options.open().run(options.run)
    manifest = run.manifest()
    nodes, roles = manifest["nodes"], manifest["outputs"]
    what = (
        roles.get("model", roles.get("finetuned", options.what)) if options.what == "model" else options.what
    )
    if what not in nodes:
        near = suggest(options.what, [n for n in (*nodes, "model") if n != options.what])
        raise StoreError(
            f"The run {run.name} has no stage {options.what!r}.{near} It has: {', '.join(nodes)}."
        )
    if not options.out:
        raise StoreError("Give --out, the folder to write.")
    demand_empty(options.out)
    node = nodes[what]
    paths = [path for _, _, _, path in node["shards"]]
    if any(p is None for p in paths):
        raise StoreError(
            f"{options.what!r} are your own files, read where they are; there is nothing to export."
        )
    copied = node["kind"] not in (*IMAGES, "transferred", "prompts")
    if copied and not (paths and Sealed(run.root.store, paths[0]).exists()):
        raise StoreError(
            f"{options.what!r} holds {KINDS.get(node['kind'], 'predictions')}, not images or a model: read"
            f" its Parquet files under {run.root.store.root}."
        )
    written = options.out
    with new_folder(options.out) as out:
        if copied:
            copy_model(run, what, out)
            said = f"{options.what} of {run.name}"
        elif node["kind"] == "prompts":
            written = posixpath.join(options.out, PROMPTS)
            said = _prompts(run, paths, posixpath.join(out, PROMPTS))
        elif node["kind"] == "transferred":
            said = _scenes(run, nodes, paths, out)
        else:
            said = _images(run, manifest, paths, out, options.layout)
    print(f"{said} in {written}")
    return 0


def _images(run: Run, manifest: dict[str, Any], paths: Sequence[str], out: str, layout: Layout) -> str:
    from diffadapt.data.export import write_tree

    def rows():
        for path in paths:
            rows = run.root.store.load(path)
            for key, label, image in zip(
                rows.column("key"), rows.column("label"), rows.column("image"), strict=True
            ):
                yield (_key(key, layout), label, image["bytes"])

    names = manifest["class_names"] or None
    return f"{write_tree(rows(), out, layout, class_names=names)} images"


def _scenes(run: Run, nodes: dict[str, Any], paths: Sequence[str], out: str) -> str:
    """images, labels and classes.csv: what `--source.path` of a layout 'folder' reads again. Refused images
    are left out."""
    from diffadapt.core.config import from_dict
    from diffadapt.data.scenes.table import ClassTable
    from diffadapt.data.scenes.write import write_scenes

    def rows():
        for path in paths:
            yield from run.root.store.load(path).table.to_pylist()

    known = (
        n["identity"].get("classes")
        for kind in ("segmenter", "detector", "scenes")
        for n in nodes.values()
        if n["kind"] == kind
    )
    count = write_scenes(rows, out, from_dict(ClassTable, next(c for c in known if c)))
    return f"{count} transferred scenes"


def _key(key: str, layout: str) -> str:
    """Keys are corruption/severity/path; class folders keep the corruption in the file's name instead."""
    group, severity, rest = key.split("/", 2)
    group = group.partition("(")[0]  # frost(procedural) lies where frost does
    if layout == "imagenet-c-syn":
        return f"{group}/{severity}/{rest}"
    head, _, name = rest.rpartition("/")
    stem = name if group in ("synthetic", "clean", "target") else f"{group}-{severity}-{name}"
    return f"{head}/{stem}" if head else stem


def _prompts(run: Run, paths: Sequence[str], out: str) -> str:
    """prompts.csv (category, prompt, source), which `--prompts.source file --prompts.file` reads again."""
    rows = [row for path in paths for row in run.root.store.load(path).table.to_pylist()]
    rows.sort(key=lambda r: (r["label"], r["index"]))
    lines = [("category", "prompt", "source"), *((r["category"], r["prompt"], r["source"]) for r in rows)]
    write_file(out, csv_bytes(lines, end="\r\n"))
    return f"{len(rows)} prompts"

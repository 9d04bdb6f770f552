"""``diffadapt export``: a run's images as folder trees that other tools read, its trained models as
folders."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.files import scratch
from diffadapt.core.place import demand_empty, new_folder, write_file
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.core.spreadsheet import csv_bytes

IMAGES, PROMPTS = ("synth", "aligned", "corrupted", "student-images"), "prompts.csv"
PUSHED = ("synth", "aligned")
"""Stages whose images may be shown to others as synthetic data sets: no image of the user's is in them."""
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
    push: str = ""
    """Also to the Hugging Face Hub, as <user or organisation>/<name>: a model, or for synth and aligned a
    data set, with a card; --out may then be left out. The token is that of the environment variable
    HF_TOKEN."""
    private: bool = False
    """--push makes a private repository, and refuses one that is public."""


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
    if not options.out and not options.push:
        raise StoreError("Give --out, the folder to write.")
    if options.private and not options.push:
        raise StoreError("--private is for --push <user or organisation>/<name>, which is missing.")
    node = nodes[what]
    if options.push:
        _demand_push(options, what, node["kind"])
    if options.out:
        demand_empty(options.out)
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
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(new_folder(options.out) if options.out else scratch("export"))
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
        if options.push:
            pushed = _push(run, manifest, what, node["kind"], out, options)
    if options.out:
        print(f"{said} in {written}")
    if options.push:
        print(f"{said} at {pushed}")
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


def _demand_push(options: ExportOptions, what: str, kind: str) -> None:
    """StoreError for what is not pushed, and what models/hub.check_push raises, before anything is
    written."""
    from diffadapt.core.place import located
    from diffadapt.core.store import is_local
    from diffadapt.models.hub import check_push

    if kind in (*IMAGES, "transferred", "prompts") and what not in PUSHED:
        raise StoreError(
            f"--push takes models and the images {', '.join(PUSHED)}; {what} would show images of your own"
            " data: export them with --out."
        )
    if kind in IMAGES and options.layout != "imagefolder":
        raise StoreError(f"--push writes class folders: leave --layout {options.layout} out.")
    if options.out and not is_local(located(options.out)[0]):
        raise StoreError("--push takes the folder of --out, which must then be one of this machine.")
    check_push(options.push)


def _push(
    run: Run, manifest: dict[str, Any], what: str, kind: str, folder: str, options: ExportOptions
) -> str:
    """Push what was written to ``folder``, with its card; returns its address on the Hub."""
    import shutil
    from pathlib import Path

    from diffadapt.models.hub import push
    from diffadapt.report.dataset_card import dataset_card
    from diffadapt.report.licences import licence_section

    message = f"{what} of {run.name}, by diffadapt"
    place = Path(folder)
    if kind not in IMAGES:
        card = place / "README.md"
        if card.is_file():
            text = card.read_text() + "\n".join([*licence_section(manifest, "this model"), ""])
            card.write_text(text)
        return push(folder, options.push, "model", options.private, message)
    names = manifest["class_names"]
    with scratch("push") as above:
        shutil.copytree(place, Path(above) / "data")
        count = sum(f.is_file() for f in place.rglob("*"))
        card = dataset_card(run.name, manifest, what, count, True, names)
        (Path(above) / "README.md").write_text(card)
        return push(above, options.push, "dataset", options.private, message)


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

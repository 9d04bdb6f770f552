"""Makes the pictures of :class:`~diffadapt.tasks.segmentation.figures.SceneFigures` from stored shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diffadapt.core.artifact import Rows
from diffadapt.core.stage import FitJob, InputFile
from diffadapt.data.image import decode
from diffadapt.data.scenes.rows import Scene, decode_scenes
from diffadapt.metrics.segmentation import mean_iou, total
from diffadapt.stages.figure_sections import Sections
from diffadapt.stages.quality import DECISIONS
from diffadapt.tasks.segmentation import pictures as draw
from diffadapt.tasks.segmentation.figures import evenly

if TYPE_CHECKING:
    from diffadapt.tasks.segmentation.figures import SceneFigures

MEASURES = (("consistency", "consistency"), ("edges", "edges"), ("clip", "CLIP"))
"""What is said under an accepted transfer: (measure, word)."""


def make_figures(stage: SceneFigures, job: FitJob) -> dict[str, Any]:
    """Write the files into the job's output folder."""
    sections = Sections(job.output)
    add = sections.add
    add(
        "transfers.png",
        _transfers(stage, job),
        "Transferred scenes",
        "A source scene, its label map, and the scene after the transfer; chosen evenly over the data, not by their looks. Green: training saw it; red: quality control refused it, with the reason.",
    )
    picture, labelled = _panels(stage, job)
    said = (
        "The target's labels served for these pictures and for scores alone."
        if labelled
        else "The target has no labels, so nothing says which map is right."
    )
    add(
        "panels.png",
        picture,
        "Label maps of the target",
        "Target images chosen evenly over the data, not by the result, and what the models see in them."
        f" {said}",
    )
    add("confusion.png", *_confusion(stage, job))
    return {"pictures": sections.write()}


def _transfers(stage: SceneFigures, job: FitJob) -> bytes | None:
    if not (stage.source and stage.transferred):
        return None
    decisions = _decisions(job)
    found: list[tuple[str, bool, str, InputFile]] = []
    for file in job.inputs(stage.transferred):
        rows = job.read(file)
        for key, accepted, scores in zip(
            *(rows.column(c) for c in ("key", "accepted", "scores")), strict=True
        ):
            decided = decisions.get(key, {})
            kept = bool(decided.get("kept", accepted))
            found.append((key, kept, _said(kept, json.loads(scores), decided), file))
    found.sort(key=lambda f: f[0])
    chosen = [
        *evenly([f for f in found if f[1]], stage.accepted),
        *evenly([f for f in found if not f[1]], stage.refused),
    ]
    keys, files = {f[0] for f in chosen}, {f[3].digest: f[3] for f in chosen}
    made = _scenes(job, files.values(), keys)
    sources = _scenes(job, _parents(job, stage.source, files.values()), keys)
    entries = [
        draw.Transfer(sources[k].image, made[k].annotation, made[k].image, text, kept)
        for k, kept, text, _ in chosen
        if k in made and k in sources
    ]
    return draw.contact_sheet(entries, stage.classes) if entries else None


def _said(kept: bool, scores: dict[str, Any], decided: dict[str, Any]) -> str:
    if not kept:
        return decided.get("sentence") or "refused: " + ", ".join(scores.get("reasons") or ["not accepted"])
    return ", ".join(f"{word} {scores[name]:.2f}" for name, word in MEASURES if scores.get(name) is not None)


def _decisions(job: FitJob) -> dict[str, dict[str, Any]]:
    """Every decision of quality control by key; empty without that input."""
    for folder in job.context.fitted.values():
        path = Path(folder) / DECISIONS
        if path.is_file():
            return {one["key"]: one for one in json.loads(path.read_text(encoding="utf-8"))["images"]}
    return {}


def _scenes(job: FitJob, files: Iterable[InputFile], keys: set[str]) -> dict[str, Scene]:
    """The readable scenes of ``keys`` in ``files``."""
    found: dict[str, Scene] = {}
    for file in files:
        rows = job.read(file)
        where = [i for i, key in enumerate(rows.column("key")) if key in keys]
        scenes, _ = decode_scenes(Rows(rows.table.take(where)), annotation=True)
        found.update({s.key: s for s in scenes})
    return found


def _parents(job: FitJob, node: str, files: Iterable[InputFile]) -> list[InputFile]:
    """The shards of ``node`` that ``files`` were made from."""
    read = {i.digest for f in files for i in f.shard.inputs}
    return [f for f in job.inputs(node) if f.digest in read]


def _panels(stage: SceneFigures, job: FitJob) -> tuple[bytes | None, bool]:
    """The picture, and whether a truth is in it."""
    if not (stage.target and stage.shown):
        return None, False
    seen = [_predicted(job, node, {f.digest for f in job.inputs(stage.target)}) for _, node in stage.shown]
    keys = evenly(sorted(set(seen[0]).intersection(*seen)), stage.panels)
    files = {seen[0][k].file.digest: seen[0][k].file for k in keys}
    scenes = _scenes(job, _parents(job, stage.target, files.values()), set(keys))
    rows = []
    for scene in (scenes[k] for k in keys if k in scenes):
        maps, texts = zip(
            *(_map(scene.key, prediction[scene.key], len(stage.classes.names)) for prediction in seen),
            strict=True,
        )
        rows.append(draw.Panel(scene.image, scene.annotation, maps, texts))
    if not rows:
        return None, False
    return draw.panels(rows, [title for title, _ in stage.shown], stage.classes), any(
        r.truth is not None for r in rows
    )


class _Predicted(NamedTuple):
    """A label map as PNG, its counts, and where it lies."""

    data: bytes
    counts: Sequence[int] | None
    file: InputFile


def _predicted(job: FitJob, node: str, scenes: set[str]) -> dict[str, _Predicted]:
    """The predictions of ``node`` on the shards of digests ``scenes``, by key."""
    found = {}
    for file in job.inputs(node):
        if any(i.digest in scenes for i in file.shard.inputs):
            rows = job.read(file)
            for key, stored, counts in zip(
                *(rows.column(c) for c in ("key", "prediction", "confusion")), strict=True
            ):
                found[key] = _Predicted(stored["bytes"], counts, file)
    return found


def _map(key: str, predicted: _Predicted, classes: int) -> tuple[np.ndarray, str]:
    """The label map, and the image's own mean IoU in words."""
    labels = decode(predicted.data, 1, key)[..., 0]
    value = float("nan") if predicted.counts is None else mean_iou(total([predicted.counts], classes))
    return labels, f"mIoU {100 * value:.1f}" if np.isfinite(value) else ""


def _confusion(stage: SceneFigures, job: FitJob) -> tuple[bytes | None, str, str]:
    """The picture of the last method with its title and caption."""
    if not stage.predictions:
        return None, "", ""
    title, node = stage.predictions[-1]
    counts = [c for file in job.inputs(node) for c in job.read(file).column("confusion") if c is not None]
    matrix = total(counts, len(stage.classes.names))
    if not matrix[:-1].sum():
        return None, "", ""
    caption = (
        f"Which class {title} takes a pixel for: of every 100 pixels of the class on the left, so many are"
        f" seen as the class above. All {len(counts)} labelled target images; pixels without a label count"
        " nowhere."
    )
    return (
        draw.confusion_matrix(matrix, stage.classes),
        f"Confusion of classes on the target, {title}",
        caption,
    )

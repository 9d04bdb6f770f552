"""Pictures of ZoDi for the report: a contact sheet of the transfer, panels of label maps, the confusion
matrix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffadapt.core.artifact import Input, Rows, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob, InputFile, NodePlan, PlannedShard
from diffadapt.data.image import decode
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.data.scenes.scene import Scene
from diffadapt.data.scenes.table import ClassTable
from diffadapt.metrics.segmentation import mean_iou, total
from diffadapt.report.figures import Figure, FigureStage, evenly
from diffadapt.stages.quality import DECISIONS
from diffadapt.tasks.segmentation import pictures as draw

MEASURES = (("consistency", "consistency"), ("edges", "edges"), ("clip", "CLIP"))
"""What is said under an accepted transfer: (measure, word)."""


SHARDS = 8
"""Shards of a node that pictures are chosen from at most, evenly spread."""


@dataclass(frozen=True)
class SceneFigures(FigureStage):
    """Inputs, in any order, are found by the node names below (an empty name leaves its picture out); further
    ones are the decisions of quality.

    Writes transfers.png, panels.png and confusion.png, as far as there is something to show, and
    figures.json. Metrics: ``pictures``.
    """

    classes: ClassTable = ClassTable()
    source: str = ""
    transferred: str = ""
    target: str = ""
    predictions: tuple[tuple[str, str], ...] = ()
    """(title of the method, node of its label maps on the target): the first is the source-only one, the last
    the method itself."""
    accepted: int = 6
    refused: int = 4
    """Entries of the contact sheet at most."""
    panels: int = 6
    """Target images that are shown."""

    def label(self) -> str:
        return "scenes"

    def identity(self) -> dict[str, Any]:
        return to_dict(self, identity_only=True)

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The predictions of the panels: the first and the last."""
        return tuple(dict.fromkeys((self.predictions[0], self.predictions[-1]))) if self.predictions else ()

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        """One shard that reads a few shards of images, and all counts of the last method."""
        chosen: dict[str, Sequence[PlannedShard]] = {}
        for name in (self.transferred, self.target):
            if name in inputs:
                chosen[name] = evenly(inputs[name].shards, SHARDS)
        read = {i.digest for p in chosen.get(self.transferred, ()) for i in p.shard.inputs}
        if self.source in inputs:
            chosen[self.source] = [p for p in inputs[self.source].shards if p.digest in read]
        targets = {p.digest for p in chosen.get(self.target, ())}
        last = self.predictions[-1][1] if self.predictions else ""
        for _, name in self.shown:
            if name in inputs:
                chosen[name] = [
                    p
                    for p in inputs[name].shards
                    if name == last or any(i.digest in targets for i in p.shard.inputs)
                ]
        for name, node in inputs.items():
            if node.stage.fit_stage:
                chosen[name] = node.shards
        every = tuple(Input(name, p.digest) for name in inputs for p in chosen.get(name, ()))
        return [Shard("all", {}, every, len(every))]

    def figures(self, job: FitJob) -> Iterator[Figure]:
        yield Figure(
            "transfers.png",
            self._transfers(job),
            "Transferred scenes",
            "A source scene, its label map, and the scene after the transfer; chosen evenly over the data,"
            " not by their looks. Green: training saw it; red: quality control refused it, with the reason.",
        )
        picture, labelled = self._panels(job)
        said = "The target has no labels, so nothing says which map is right."
        if labelled:
            said = "The target's labels served for these pictures and for scores alone."
        yield Figure(
            "panels.png",
            picture,
            "Label maps of the target",
            "Target images chosen evenly over the data, not by the result, and what the models see in them."
            f" {said}",
        )
        yield self._confusion(job)

    def _transfers(self, job: FitJob) -> bytes | None:
        if not (self.source and self.transferred):
            return None
        decisions = _decisions(job)
        found: list[tuple[str, bool, str, InputFile]] = []
        for file in job.inputs(self.transferred):
            rows = job.read(file)
            for key, accepted, scores in zip(
                *(rows.column(c) for c in ("key", "accepted", "scores")), strict=True
            ):
                decided = decisions.get(key, {})
                kept = bool(decided.get("kept", accepted))
                found.append((key, kept, _said(kept, json.loads(scores), decided), file))
        found.sort(key=lambda f: f[0])
        chosen = [
            *evenly([f for f in found if f[1]], self.accepted),
            *evenly([f for f in found if not f[1]], self.refused),
        ]
        keys, files = {f[0] for f in chosen}, {f[3].digest: f[3] for f in chosen}
        made = _scenes(job, files.values(), keys)
        sources = _scenes(job, _parents(job, self.source, files.values()), keys)
        entries = [
            draw.Transfer(sources[k].image, made[k].annotation, made[k].image, text, kept)
            for k, kept, text, _ in chosen
            if k in made and k in sources
        ]
        return draw.contact_sheet(entries, self.classes) if entries else None

    def _panels(self, job: FitJob) -> tuple[bytes | None, bool]:
        """The picture, and whether a truth is in it."""
        if not (self.target and self.shown):
            return None, False
        seen = [_predicted(job, node, {f.digest for f in job.inputs(self.target)}) for _, node in self.shown]
        keys = evenly(sorted(set(seen[0]).intersection(*seen)), self.panels)
        files = {seen[0][k].file.digest: seen[0][k].file for k in keys}
        scenes = _scenes(job, _parents(job, self.target, files.values()), set(keys))
        rows = []
        for scene in (scenes[k] for k in keys if k in scenes):
            maps, texts = zip(
                *(_map(scene.key, prediction[scene.key], len(self.classes.names)) for prediction in seen),
                strict=True,
            )
            rows.append(draw.Panel(scene.image, scene.annotation, maps, texts))
        if not rows:
            return None, False
        labelled = any(r.truth is not None for r in rows)
        return draw.panels(rows, [title for title, _ in self.shown], self.classes), labelled

    def _confusion(self, job: FitJob) -> Figure:
        """The confusion of the last method."""
        file, (title, node) = "confusion.png", self.predictions[-1] if self.predictions else ("", "")
        read = [job.read(f).column("confusion") for f in job.inputs(node)] if node else []
        counts = [c for column in read for c in column if c is not None]
        matrix = total(counts, len(self.classes.names))
        if not matrix[:-1].sum():
            return Figure(file, None, "", "")
        return Figure(
            file,
            draw.confusion_matrix(matrix, self.classes),
            f"Confusion of classes on the target, {title}",
            f"Which class {title} takes a pixel for: of every 100 pixels of the class on the left, so many"
            f" are seen as the class above. All {len(counts)} labelled target images; pixels without a label"
            " count nowhere.",
        )


def _said(kept: bool, scores: dict[str, Any], decided: dict[str, Any]) -> str:
    if not kept:
        return decided.get("sentence") or "refused: " + ", ".join(scores.get("reasons") or ["not accepted"])
    return ", ".join(f"{word} {scores[name]:.2f}" for name, word in MEASURES if scores.get(name) is not None)


def _decisions(job: FitJob) -> dict[str, dict[str, Any]]:
    """Every decision of quality control by key; empty without that input."""
    folders = job.context.fitted_by("quality")
    if not folders:
        return {}
    text = (Path(folders[0]) / DECISIONS).read_text(encoding="utf-8")
    return {one["key"]: one for one in json.loads(text)["images"]}


def _scenes(job: FitJob, files: Iterable[InputFile], keys: set[str]) -> dict[str, Scene]:
    """The readable scenes of ``keys`` in ``files``."""
    result: dict[str, Scene] = {}
    for file in files:
        rows = job.read(file)
        where = [i for i, key in enumerate(rows.column("key")) if key in keys]
        scenes, _ = decode_scenes(Rows(rows.table.take(where)), annotation=True)
        result.update({s.key: s for s in scenes})
    return result


def _parents(job: FitJob, node: str, files: Iterable[InputFile]) -> list[InputFile]:
    """The shards of ``node`` that ``files`` were made from."""
    read = {i.digest for f in files for i in f.shard.inputs}
    return [f for f in job.inputs(node) if f.digest in read]


class _Predicted(NamedTuple):
    """A label map as PNG, its counts, and where it lies."""

    data: bytes
    counts: Sequence[int] | None
    file: InputFile


def _predicted(job: FitJob, node: str, scenes: set[str]) -> dict[str, _Predicted]:
    """The predictions of ``node`` on the shards of digests ``scenes``, by key."""
    result = {}
    for file in job.inputs(node):
        if any(i.digest in scenes for i in file.shard.inputs):
            rows = job.read(file)
            for key, stored, counts in zip(
                *(rows.column(c) for c in ("key", "prediction", "confusion")), strict=True
            ):
                result[key] = _Predicted(stored["bytes"], counts, file)
    return result


def _map(key: str, predicted: _Predicted, classes: int) -> tuple[np.ndarray, str]:
    """The label map, and the image's own mean IoU in words."""
    labels = decode(predicted.data, 1, key)[..., 0]
    value = float("nan") if predicted.counts is None else mean_iou(total([predicted.counts], classes))
    return labels, f"mIoU {100 * value:.1f}" if np.isfinite(value) else ""

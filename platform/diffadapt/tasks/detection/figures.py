"""Pictures of detection for the report: transferred images with the boxes carried over, and what the
detectors find on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard, Stage
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.stages.figure_sections import Sections

SURE = 0.5
"""Least score of a detection that is drawn where the true objects are not known."""


@dataclass(frozen=True)
class DetectionFigures(Stage):
    """Inputs are found by the node names below; an empty name leaves that picture out. Writes PNG files and
    figures.json."""

    classes: ClassTable = ClassTable()
    source: str = ""
    transferred: str = ""
    target: str = ""
    predictions: tuple[tuple[str, str], ...] = ()
    """(title of the method, its boxes on the target)."""
    rows: int = 6

    kind = "figures"
    fit_stage = True
    trains = False

    def label(self) -> str:
        return "detection"

    def identity(self) -> dict[str, Any]:
        return {**to_dict(self, identity_only=True), "classes": to_dict(self.classes, identity_only=True)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        chosen = {name: self._spread(node) for name, node in inputs.items() if name != self.transferred}
        shown = {p.digest for p in chosen.get(self.source, ())}
        for p in inputs[self.transferred].shards if self.transferred else ():
            if shown & {i.digest for i in p.shard.inputs}:
                chosen.setdefault(self.transferred, []).append(p)
        every = tuple(Input(name, p.digest) for name, some in chosen.items() for p in some)
        return [Shard("all", {}, every, len(every))]

    def _spread(self, node: NodePlan) -> list[PlannedShard]:
        """Evenly spread shards, one a row; equal places of one set, because predictions have the shards of
        their images."""
        count = min(self.rows, len(node.shards))
        return [node.shards[i * len(node.shards) // count] for i in range(count)]

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        sections = Sections(job.output)
        add = sections.add
        if self.source and self.transferred:
            add(
                "transfers.png",
                self._transfers(job),
                "Transferred images with their boxes",
                "Source images with their true boxes, and the same images transferred to the target domain: the boxes carry over, because the transfer keeps the layout. Evenly spread, not chosen.",
            )
        if self.target and self.predictions:
            add(
                "panels.png",
                self._panels(job),
                "Detections on the target",
                f"Target images with their true boxes, and each detector's surest ones, as many as there are true objects (where these are not known, those with a score of at least {SURE:g}). Images evenly spread, not chosen; training saw none of them.",
            )
        return {"pictures": sections.write()}

    def _transfers(self, job: FitJob) -> bytes | None:
        from diffadapt.tasks.detection.pictures import box_panel

        source = _scenes(job, self.source)
        made = _scenes(job, self.transferred)
        keys = _evenly([k for k in sorted(source) if k in made], self.rows)
        cells = [
            [
                _drawn(source[k], source[k].objects, self.classes),
                _drawn(made[k], made[k].objects, self.classes),
            ]
            for k in keys
        ]
        half = -(-len(cells) // 2)
        rows = [[*cells[i], *(cells[half + i] if half + i < len(cells) else ())] for i in range(half)]
        titles = ["source", "transferred"] * (2 if len(cells) > 1 else 1)
        names, colours = self._legend([o for k in keys for o in source[k].objects or ()])
        return box_panel(rows, titles, names, colours) if rows else None

    def _panels(self, job: FitJob) -> bytes | None:
        from diffadapt.tasks.detection.pictures import box_panel

        target = _scenes(job, self.target)
        found = [
            {key: boxes for file in job.inputs(node) for key, boxes in _boxes(job.read(file))}
            for _, node in self.predictions
        ]
        keys = _evenly([k for k in sorted(target) if all(k in f for f in found)], self.rows)
        known = any(target[k].objects is not None for k in keys)
        rows: list[list[Any]] = []
        listed: list[Mapping[str, Any]] = []
        for k in keys:
            first = _drawn(target[k], target[k].objects, self.classes)
            shown = [_surest(f[k], target[k].objects) for f in found]
            rows.append([first, *(_drawn(target[k], boxes, self.classes) for boxes in shown)])
            listed += [*(target[k].objects or ()), *(b for boxes in shown for b in boxes)]
        names, colours = self._legend(listed)
        return (
            box_panel(
                rows,
                ["truth" if known else "image", *(title for title, _ in self.predictions)],
                names,
                colours,
            )
            if rows
            else None
        )

    def _legend(self, boxes: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[int, int, int]]]:
        """Names and colours of the classes that occur."""
        used = sorted({b["category"] for b in boxes})
        return [self.classes.names[c] for c in used], [self.classes.colours[c] for c in used]


def _scenes(job: FitJob, node: str) -> dict[str, Any]:
    """The readable scenes of a node's shards by key."""
    from diffadapt.data.scenes.rows import decode_scenes

    return {s.key: s for file in job.inputs(node) for s in decode_scenes(job.read(file), annotation=False)[0]}


def _boxes(rows: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    return list(zip(rows.column("key"), rows.column("boxes"), strict=True))


def _surest(
    boxes: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """The detections that are drawn: thresholds of scores would say more about calibration than about what
    was found."""
    if objects is None:
        return [b for b in boxes if b["score"] >= SURE]
    return sorted(boxes, key=lambda b: -b["score"])[: sum(not o["crowd"] for o in objects)]


def _drawn(scene: Any, boxes: Sequence[Mapping[str, Any]] | None, classes: ClassTable) -> Any:
    from diffadapt.tasks.detection.pictures import boxed

    return boxed(scene.image, boxes or (), classes.colours)


def _evenly(keys: Sequence[str], count: int) -> list[str]:
    count = min(count, len(keys))
    return [keys[i * len(keys) // count] for i in range(count)]

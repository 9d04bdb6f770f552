"""Pictures of detection for the report: transferred images with the boxes carried over, and what the
detectors find on the target; arrays in, PNG bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob, NodePlan
from diffadapt.data.scenes.table import ClassTable
from diffadapt.report.figures import Figure, FigureStage, evenly
from diffadapt.report.panels import GAP, INK, PAPER, drawable, fit_size, font, image_grid, pixels, png

SURE = 0.5
"""Least score of a detection that is drawn where the true objects are not known."""
SIDES = (160, 224)
"""Short side that a small image is enlarged to at least, and long side that a large one is reduced to at
most."""
CROWD = (150, 150, 150)


@dataclass(frozen=True)
class DetectionFigures(FigureStage):
    """Inputs are found by the node names below; an empty name leaves that picture out. Writes PNG files and
    figures.json."""

    classes: ClassTable = ClassTable()
    source: str = ""
    transferred: str = ""
    target: str = ""
    predictions: tuple[tuple[str, str], ...] = ()
    """(title of the method, its boxes on the target)."""
    rows: int = 6

    def label(self) -> str:
        return "detection"

    def identity(self) -> dict[str, Any]:
        return {**to_dict(self, identity_only=True), "classes": to_dict(self.classes, identity_only=True)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        # equal places of one set, because predictions have the shards of their images
        chosen = {n: evenly(node.shards, self.rows) for n, node in inputs.items() if n != self.transferred}
        shown = {p.digest for p in chosen.get(self.source, ())}
        for p in inputs[self.transferred].shards if self.transferred else ():
            if shown & {i.digest for i in p.shard.inputs}:
                chosen.setdefault(self.transferred, []).append(p)
        every = tuple(Input(name, p.digest) for name, some in chosen.items() for p in some)
        return [Shard("all", {}, every, len(every))]

    def figures(self, job: FitJob) -> Iterator[Figure]:
        if self.source and self.transferred:
            yield Figure(
                "transfers.png",
                self._transfers(job),
                "Transferred images with their boxes",
                "Source images with their true boxes, and the same images transferred to the target domain:"
                " the boxes carry over, because the transfer keeps the layout. Evenly spread, not chosen.",
            )
        if self.target and self.predictions:
            yield Figure(
                "panels.png",
                self._panels(job),
                "Detections on the target",
                "Target images with their true boxes, and each detector's surest ones, as many as there are"
                " true objects (where these are not known, those with a score of at least"
                f" {SURE:g}). Images evenly spread, not chosen; training saw none of them.",
            )

    def _transfers(self, job: FitJob) -> bytes | None:
        source, transferred = _scenes(job, self.source), _scenes(job, self.transferred)
        keys = evenly([k for k in sorted(source) if k in transferred], self.rows)
        cells = [[self._drawn(s[k], s[k].objects) for s in (source, transferred)] for k in keys]
        half = -(-len(cells) // 2)
        rows = [[*cells[i], *(cells[half + i] if half + i < len(cells) else ())] for i in range(half)]
        titles = ["source", "transferred"] * (2 if len(cells) > 1 else 1)
        names, colours = self._legend([o for k in keys for o in source[k].objects or ()])
        return box_panel(rows, titles, names, colours) if rows else None

    def _panels(self, job: FitJob) -> bytes | None:
        target = _scenes(job, self.target)
        found = [
            {key: boxes for file in job.inputs(node) for key, boxes in _boxes(job.read(file))}
            for _, node in self.predictions
        ]
        keys = evenly([k for k in sorted(target) if all(k in f for f in found)], self.rows)
        known = any(target[k].objects is not None for k in keys)
        rows: list[list[np.ndarray]] = []
        listed: list[Mapping[str, Any]] = []
        for k in keys:
            columns = [target[k].objects or (), *(_surest(f[k], target[k].objects) for f in found)]
            rows.append([self._drawn(target[k], boxes) for boxes in columns])
            listed += [box for boxes in columns for box in boxes]
        titles = ["truth" if known else "image", *(title for title, _ in self.predictions)]
        return box_panel(rows, titles, *self._legend(listed)) if rows else None

    def _drawn(self, scene: Any, boxes: Sequence[Mapping[str, Any]] | None) -> np.ndarray:
        return boxed(scene.image, boxes or (), self.classes.colours)

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


def boxed(
    image: np.ndarray, boxes: Sequence[Mapping[str, Any]], colours: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """``image`` (uint8 HWC) at a size to look at, with ``boxes`` ({category, bbox, and maybe score or crowd})
    drawn in their classes' colours, crowds in grey; the surest lies above the others."""
    shown = fit_size(image, *SIDES)
    y, x = shown.shape[0] / image.shape[0], shown.shape[1] / image.shape[1]
    picture = Image.fromarray(shown)
    pen = ImageDraw.Draw(picture)
    for box in sorted(boxes, key=lambda b: b.get("score", 1.0)):
        x1, y1, x2, y2 = (round(v * f) for v, f in zip(box["bbox"], (x, y, x, y), strict=True))
        colour = CROWD if box.get("crowd") else colours[box["category"]]
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(
            (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), outline=contrast(colour)
        )
        pen.rectangle(corners, outline=colour, width=2 if min(x2 - x1, y2 - y1) > 8 else 1)
    return np.asarray(picture)


def contrast(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """White for dark colours, black for light ones: an outline that shows on any image."""
    return (255, 255, 255) if sum(colour) < 330 else (0, 0, 0)


def box_panel(
    rows: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str],
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
) -> bytes:
    """Rows of pictures of :func:`boxed` under the titles ``columns``, and a legend of the classes. ValueError
    without a picture."""
    grid = image_grid(rows, (), columns)
    legend = _legend([drawable(n, f"class {i}") for i, n in enumerate(names)], colours, grid.shape[1])
    sheet = np.full((grid.shape[0] + legend.shape[0], grid.shape[1], 3), 255, np.uint8)
    sheet[: grid.shape[0]], sheet[grid.shape[0] :] = grid, legend
    return png(sheet)


def _legend(names: Sequence[str], colours: Sequence[tuple[int, int, int]], width: int) -> np.ndarray:
    wide = max((pixels(n) for n in names), default=0) + 34
    columns = max(1, (width - 2 * GAP) // wide)
    lines = -(-len(names) // columns)
    sheet = Image.new("RGB", (width, 20 * lines + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x, y = GAP + (i % columns) * wide, 20 * (i // columns)
        pen.rectangle((x, y + 3, x + 12, y + 15), outline=colour, width=3)
        pen.text((x + 19, y + 1), name, fill=INK, font=font())
    return np.asarray(sheet)

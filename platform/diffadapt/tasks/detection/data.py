"""Batches of detector training: pairs of a source and its transferred image with the source's boxes, as a
function of (seed, step, rank) alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from diffadapt.core.identity import item_seed
from diffadapt.models.detection.network import Target
from diffadapt.models.segmentation.inputs import stacked
from diffadapt.tasks.detection.config import DetectionTraining
from diffadapt.tasks.segmentation.augment import PairAugment, draw
from diffadapt.tasks.segmentation.batches import Pairs, SceneSet
from diffadapt.train.pair_batches import cycled
from diffadapt.train.step_batches import StepBatches


class Boxes(NamedTuple):
    """The objects of one image that are trained on (no crowds): ``boxes`` float32 (n, 4), ``labels`` int64
    (n,)."""

    boxes: np.ndarray
    labels: np.ndarray


class DetectionBatch(NamedTuple):
    """``source`` and ``transferred`` uint8 (B, 3, H, W), empty where the method has no use for them;
    ``targets`` of both."""

    source: torch.Tensor
    transferred: torch.Tensor
    targets: list[Target]


def training_boxes(
    objects: Sequence[Mapping[str, Any]], stored: tuple[int, int], size: tuple[int, int], classes: int
) -> Boxes | str:
    """The objects of an image of ``stored`` (height, width) in pixels of ``size``, clipped to the image; a
    sentence where one cannot be used.

    Crowds are left out. A box without area, outside the image, or of a class outside 0..classes-1 is refused.
    """
    (height, width), boxes, labels = stored, [], []
    for number, one in enumerate(objects, start=1):
        if one["crowd"]:
            continue
        x1, y1, x2, y2 = (float(v) for v in one["bbox"])
        told = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 <= x1 or y2 <= y1:
            return (
                f"object {number} has the box {told}, which has no area: mend it, or remove it from the"
                " annotations."
            )
        x1, x2, y1, y2 = max(x1, 0.0), min(x2, float(width)), max(y1, 0.0), min(y2, float(height))
        if x2 <= x1 or y2 <= y1:
            return (
                f"object {number} has the box {told}, which lies outside the image of {width} x {height}"
                " pixels: mend it, or remove it from the annotations."
            )
        if not 0 <= one["category"] < classes:
            return (
                f"object {number} is of class {one['category']}, but there are {classes} classes"
                f" (0..{classes - 1}): correct the class table or the annotations."
            )
        boxes.append((x1, y1, x2, y2))
        labels.append(one["category"])
    scale = np.array([size[1] / width, size[0] / height] * 2)
    return Boxes(
        (np.array(boxes, np.float64).reshape(-1, 4) * scale).astype(np.float32), np.array(labels, np.int64)
    )


class DetectionBatches(StepBatches[DetectionBatch]):
    """``batches(step, micro) -> DetectionBatch`` of this rank on the CPU; call in any order. A context: its
    threads end with it.

    Flip and jitter are seeded by (seed, step, place in the global batch): they depend neither on the number
    of workers nor on the method. ``boxes`` holds those of every source scene, by its place in ``source``.
    """

    def __init__(
        self, source: SceneSet, transferred: SceneSet | None, boxes: Sequence[Boxes], pairs: Pairs, training: DetectionTraining, uses: tuple[bool, bool],
        rank: int = 0, world_size: int = 1, readers: int = 0,
    ):  # fmt: skip
        super().__init__(readers)
        self.source, self.transferred, self.boxes, self.pairs, self.training, self.uses = (
            source,
            transferred,
            boxes,
            pairs,
            training,
            uses,
        )
        self.augment = PairAugment(training)  # type: ignore[arg-type]
        self.mine = slice(
            rank * training.batch_size // world_size, (rank + 1) * training.batch_size // world_size
        )

    def make(self, step: int) -> DetectionBatch:
        """The batch, made now."""
        size, seed = self.training.batch_size, self.training.seed
        chosen = cycled(len(self.pairs), size, step, seed, "pairs")[self.mine]
        seeds = np.random.default_rng(item_seed(seed, "pairs", str(step), "views")).integers(
            1 << 62, size=size
        )[self.mine]
        items = list(zip(chosen.tolist(), seeds.tolist(), strict=True))
        if self._pool is None or len(items) < 2:
            made = [self._item(*item) for item in items]
        else:
            made = [f.result() for f in [self._pool.submit(self._item, *item) for item in items]]
        shown = next(x for x in made[0][0] if x is not None)
        empty = torch.zeros((0, 3, *shown.shape[:2]), dtype=torch.uint8)
        x, other = (stacked([m[0][i] for m in made]) if used else empty for i, used in enumerate(self.uses))
        return DetectionBatch(x, other, [m[1] for m in made])

    def _item(self, place: int, seed: int) -> tuple[list[np.ndarray | None], Target]:
        i = int(self.pairs.source[place])
        image = self.source.get(i)[0] if self.uses[0] else None
        other = (
            self.transferred.get(int(self.pairs.transferred[place]))[0]
            if self.uses[1] and self.transferred is not None
            else None
        )
        shape = (image if image is not None else other).shape[:2]  # type: ignore[union-attr]
        images, _ = self.augment([image, other], np.zeros(shape, np.uint8), seed)
        boxes = self.boxes[i].boxes
        if self.training.flip and draw(seed).mirrored:
            boxes = mirrored(boxes, shape[1])
        return images, Target(torch.from_numpy(boxes), torch.from_numpy(self.boxes[i].labels))


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes (n, 4) of an image of ``width`` pixels after it is mirrored left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(
        np.float32
    )

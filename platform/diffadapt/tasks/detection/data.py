"""Batches of detector training: pairs of a source and its transferred image with the source's boxes, as a
function of (seed, step, rank) alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from diffadapt.models.detection.network import Target
from diffadapt.tasks.detection.config import DetectionTraining
from diffadapt.tasks.segmentation.augment import draw
from diffadapt.tasks.segmentation.batches import PairedBatches, PairedScenes
from diffadapt.train.step_batches import Share


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
        corners = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 <= x1 or y2 <= y1:
            return (
                f"object {number} has the box {corners}, which has no area: mend it, or remove it from the"
                " annotations."
            )
        x1, x2, y1, y2 = max(x1, 0.0), min(x2, float(width)), max(y1, 0.0), min(y2, float(height))
        if x2 <= x1 or y2 <= y1:
            return (
                f"object {number} has the box {corners}, which lies outside the image of {width} x {height}"
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


class DetectionBatches(PairedBatches[DetectionBatch]):
    """Batches of pairs with the boxes of the source; ``boxes`` holds those of every source scene, by its
    place there."""

    def __init__(
        self,
        scenes: PairedScenes,
        boxes: Sequence[Boxes],
        training: DetectionTraining,
        uses: tuple[bool, bool],
        share: Share = Share(),
    ):
        super().__init__(scenes, training, uses, share)
        self.boxes = boxes

    def make(self, step: int) -> DetectionBatch:
        """The batch, made now."""
        items = self.items(step)
        return DetectionBatch(*self.stacked(items), [target for _, target in items])

    def item(self, place: int, seed: int) -> tuple[list[np.ndarray | None], Target]:
        """Both augmented images of a pair and its boxes."""
        images, _ = self.scenes.get(place, self.uses)
        height, width = next(x for x in images if x is not None).shape[:2]
        images, _ = self.augment(images, np.zeros((height, width), np.uint8), seed)
        boxes, labels = self.boxes[int(self.scenes.pairs.source[place])]
        if self.training.flip and draw(seed).mirrored:
            boxes = mirrored(boxes, width)
        return images, Target(torch.from_numpy(boxes), torch.from_numpy(labels))


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes (n, 4) of an image of ``width`` pixels after it is mirrored left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(
        np.float32
    )

"""Toy scenes with boxes for tests of detection: coloured rectangles on a noisy ground, whose other domain has
inverted colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diffadapt.core.artifact import Rows, scene_table
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.table import ClassTable, plain_table
from diffadapt.models.detection.build import build_detector
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.network import DetectionNetwork
from diffadapt.tasks.detection.config import DetectionTraining
from diffadapt.tasks.detection.data import training_boxes

SIZE = (32, 64)
COLOURS = np.array([[200, 40, 40], [40, 40, 220]])
TABLE: ClassTable = plain_table("toy", [("red", (255, 0, 0)), ("blue", (0, 0, 255))])
TINY = DetectorConfig(arch="fcos", backbone="tiny", weights="none", size=SIZE, batch_size=4)
QUICK = DetectionTraining(
    epochs=2,
    batch_size=4,
    lr=2e-3,
    optimizer="adamw",
    warmup_steps=2,
    jitter=(0.2, 0.2, 0.2, 0.0),
    checkpoint_every=3,
)


class ToyBoxes:
    """A set of N toy scenes in memory (train/segmentation_batches.SceneSet) with their objects; every fifth
    has none."""

    def __init__(
        self, count: int, inverted: bool = False, name: str = "source/0", size: tuple[int, int] = SIZE
    ):
        self.keys = [f"{name}/{i:03d}" for i in range(count)]
        made = [toy(i, size) for i in range(count)]
        self.images = [255 - image if inverted else image for image, _ in made]
        self.objects: list[list[dict[str, Any]] | None] = [objects for _, objects in made]

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, i: int) -> tuple[np.ndarray, None]:
        return self.images[i], None

    def boxes(self) -> list:
        found = [
            training_boxes(o or [], image.shape[:2], SIZE, 2)
            for o, image in zip(self.objects, self.images, strict=True)
        ]
        assert not any(isinstance(f, str) for f in found)
        return found

    def rows(self, accepted: Sequence[bool] | None = None) -> Rows:
        table = scene_table(
            self.keys, [encode_png(i) for i in self.images], [None] * len(self), objects=self.objects
        )
        return Rows(table if accepted is None else table.append_column("accepted", pa.array(accepted)))


def toy(index: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(image, its objects): up to two rectangles of different classes that do not touch."""
    rng = np.random.default_rng(500 + index)
    height, width = size
    image = rng.integers(90, 150, (height, width, 3))
    objects = []
    for side in range(0 if index % 5 == 4 else 2):
        h, w = (int(v) for v in rng.integers(height // 3, height // 2 + 1, 2))
        y, x = (
            int(rng.integers(0, height - h + 1)),
            int(rng.integers(side * width // 2, (side + 1) * width // 2 - w + 1)),
        )
        category = int(rng.integers(2))
        image[y : y + h, x : x + w] = COLOURS[category] + rng.integers(-10, 11, (h, w, 1))
        objects.append(
            {"category": category, "bbox": [float(x), float(y), float(x + w), float(y + h)], "crowd": False}
        )
    return np.clip(image, 0, 255).astype(np.uint8), objects


def toy_net(config: DetectorConfig = TINY, classes: int = 2, seed: int = 0) -> DetectionNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_detector(config, classes)

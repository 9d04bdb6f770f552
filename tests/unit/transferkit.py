"""A few labelled toy scenes as a stage, a fitted-folder stage, and a scripted generator: for tests of the
transfer, its quality and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from diffadapt.core.artifact import IGNORED, Failure, Rows, Shard, scene_table
from diffadapt.core.errors import ItemError
from diffadapt.core.stage import NodePlan, Stage, WorkContext, whole
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.table import ClassTable, plain_table
from diffadapt.models.segmentation.config import SegmenterConfig

TABLE: ClassTable = plain_table(
    "toy", [("sky", (70, 130, 180)), ("road", (128, 64, 128)), ("car", (0, 0, 142))], (2, 6, -1)
)
SMALL = SegmenterConfig(
    backbone="timm:resnet10t", weights="none", width=8, dropout=0.0, size=(32, 64), batch_size=4
)
INK = np.array([[120, 170, 220], [110, 110, 110], [200, 60, 40]])


def toy_scene(index: int, size: tuple[int, int] = (32, 64)) -> tuple[np.ndarray, np.ndarray]:
    """(image, label map) of a road below a sky with two boxes; the upper rows are ignored."""
    rng = np.random.default_rng(index)
    height, width = size
    labels = np.zeros(size, np.uint8)
    labels[height // 2 - int(rng.integers(0, 5)) :] = 1
    for _ in range(2):
        top, left = int(rng.integers(height // 3, height - 10)), int(rng.integers(0, width - 14))
        labels[top : top + 8, left : left + 12] = 2
    image = np.clip(INK[labels] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
    labels[:2] = IGNORED
    return image, labels


@dataclass(frozen=True)
class ToyScenes(Stage):
    """``count`` scenes in blocks; those of ``bare`` have no label map, those of ``broken`` no readable
    image."""

    count: int = 6
    block: int = 4
    group: str = "source"
    size: tuple[int, int] = (32, 64)
    bare: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    dark: bool = False
    boxes: bool = False

    kind: ClassVar[str] = "scenes"
    stored: ClassVar[bool] = False

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [
            Shard(
                f"{self.group}-{a:03d}",
                {"group": f"{self.group}/0", "start": a, "stop": min(a + self.block, self.count)},
                (),
                min(self.block, self.count - a),
            )
            for a in range(0, self.count, self.block)
        ]

    def open(self, context: WorkContext) -> _Toys:
        return _Toys(self)


class _Toys:
    def __init__(self, stage: ToyScenes):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        s = self.stage
        where = range(shard.params["start"], shard.params["stop"])
        key = {i: f"{s.group}/0/street/{i:03d}" for i in where}
        good = [i for i in where if i not in s.broken]
        made = [toy_scene(i, s.size) for i in good]
        table = scene_table(
            [key[i] for i in good],
            [encode_png(image // 4 if s.dark else image) for image, _ in made],
            [None if i in s.bare else encode_png(labels) for i, (_, labels) in zip(good, made, strict=True)],
            objects=[
                [{"category": 2, "bbox": [8.0, 16.0, 20.0, 24.0], "crowd": False}] if s.boxes else None
                for _ in good
            ],
        )
        return Rows(table, [Failure(key[i], "it is broken.") for i in where if i in s.broken])


@dataclass(frozen=True)
class Folder(Stage):
    """A 'fitted' model: a copy of a folder."""

    folder: str = ""
    fit_stage: ClassVar[bool] = True

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: Any) -> dict[str, Any]:
        shutil.copytree(self.folder, job.output, dirs_exist_ok=True)
        return {}


class Segmenter(Folder):
    kind: ClassVar[str] = "segmenter"


class Generator(Folder):
    kind: ClassVar[str] = "layout-generator"


class Scripted:
    """In the place of SceneTransfer: darkens to a third; ``good(key, attempt)`` says whether the picture
    keeps its scene, else it is noise.

    ``asked``: (keys, seeds, strength) of every call; keys in ``poisonous`` give an ItemError, more than
    ``fits`` at once run out of memory.
    """

    def __init__(
        self,
        good=lambda key, attempt: True,
        poisonous: Sequence[str] = (),
        fits: int = 100,
        size: tuple[int, int] | None = None,
    ):
        self.good, self.poisonous, self.fits, self.size = good, poisonous, fits, size
        self.asked: list[tuple[list[str], list[int], float | None]] = []
        self.made: dict[str, int] = {}

    def transfer(
        self, scenes: Sequence[Any], seeds: Sequence[int], strength: float | None = None
    ) -> list[Any]:
        if len(scenes) > self.fits:
            raise MemoryError("out of memory")
        self.asked.append(([s.key for s in scenes], list(seeds), strength))
        return [self._one(s, seed) for s, seed in zip(scenes, seeds, strict=True)]

    def _one(self, scene: Any, seed: int) -> Any:
        attempt = self.made.get(scene.key, 0)
        self.made[scene.key] = attempt + 1
        if any(scene.key.endswith(p) for p in self.poisonous):
            return ItemError("the picture has NaN")
        image = scene.image
        if self.size:
            image = np.asarray(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BOX))
        if self.good(scene.key, attempt):
            return (image // 3).astype(np.uint8)
        return np.random.default_rng(seed % 2**32).integers(0, 256, image.shape, dtype=np.uint8)

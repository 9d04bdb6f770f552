"""Toy scenes and a toy segmenter for tests of segmentation: blocks of colour on a road, whose other domain
has inverted colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.core.artifact import IGNORED, Rows, Shard, scene_table
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.table import ClassTable, plain_table
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.train.reporter import LocalReporter

SIZE = (32, 64)
COLOURS = np.array([[40, 60, 200], [90, 90, 90], [220, 120, 30]])
TABLE: ClassTable = plain_table("toy", [("sky", (0, 0, 255)), ("road", (90, 90, 90)), ("box", (255, 128, 0))])
INPUTS = with_normalisation(SegmenterConfig(size=SIZE, weights="none", batch_size=4))
QUICK = SegmentTraining(epochs=4, batch_size=4, crop=(32, 32), lr=0.05, checkpoint_every=3)
SMALL = SegmenterConfig(
    backbone="timm:test_resnet", weights="none", width=8, dropout=0.0, size=SIZE, batch_size=4
)
"""A real network that trains in a moment."""


class Toy:
    """A set of N toy scenes in memory (train/segmentation_batches.SceneSet)."""

    def __init__(
        self,
        count: int,
        inverted: bool = False,
        name: str = "source/0",
        size: tuple[int, int] = SIZE,
        first: int = 0,
    ):
        self.keys = [f"{name}/{i:03d}" for i in range(first, first + count)]
        self.scenes = [scene(i, inverted, size) for i in range(first, first + count)]

    def __len__(self) -> int:
        return len(self.scenes)

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.scenes[i]

    def shuffled(self, seed: int = 0) -> Toy:
        order = np.random.default_rng(seed).permutation(len(self))
        self.keys, self.scenes = [self.keys[i] for i in order], [self.scenes[i] for i in order]
        return self


def scene(index: int, inverted: bool = False, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1000 + index)
    height, width = size
    horizon = int(rng.integers(height // 3, height // 2 + 1))
    labels = np.zeros(size, np.uint8)
    labels[horizon:] = 1
    for _ in range(2):
        top, left = int(rng.integers(horizon - 6, height - 10)), int(rng.integers(0, width - 14))
        labels[top : top + 10, left : left + 14] = 2
    image = np.clip(COLOURS[labels] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
    labels[:2] = IGNORED
    return (255 - image if inverted else image), labels


class ToyNet(nn.Module):
    """The interface of a segmentation network: two convolutions as a backbone (with batch norm unless
    ``plain``), one as the head."""

    def __init__(self, outputs: int = 4, width: int = 12, plain: bool = False):
        super().__init__()
        norm = (lambda: nn.Identity()) if plain else (lambda: nn.BatchNorm2d(width))
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            norm(),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1),
            norm(),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, outputs, 3, 1, 1)
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(x)
        return (
            F.interpolate(self.head(features), x.shape[-2:], mode="bilinear", align_corners=False),
            features,
        )

    def backbone_parameters(self):
        return self.backbone.parameters()

    def head_parameters(self):
        return self.head.parameters()


def toy_net(seed: int = 0, **more: Any) -> ToyNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyNet(**more)


def scene_rows(scenes: Toy, labelled: bool = True, accepted: Sequence[bool] | None = None) -> Rows:
    images = [encode_png(image) for image, _ in scenes.scenes]
    truth = [encode_png(labels) if labelled else None for _, labels in scenes.scenes]
    table = scene_table(scenes.keys, images, truth)
    return Rows(table if accepted is None else table.append_column("accepted", pa.array(accepted)))


def job(
    folder: Path, rows: Mapping[str, Rows], fitted: Mapping[str, str] | None = None, reporter: Any = None
) -> FitJob:
    """A fit whose inputs are one shard a node of ``rows`` and the folders ``fitted``, in this order."""
    files = [InputFile(name, name, None, Shard("all", {}, (), len(r))) for name, r in rows.items()]
    files += [InputFile(name, name, None, Shard("all", {}), True, kind="quality") for name in fitted or {}]
    output = folder / "out"
    output.mkdir(parents=True, exist_ok=True)
    return FitJob(
        "segmenter",
        lambda node: [f for f in files if f.node == node],
        Store(str(folder)),
        str(folder / "checkpoints"),
        str(output),
        WorkContext("cpu", dict(fitted or {}), kinds=dict.fromkeys(fitted or {}, "quality")),
        reporter or LocalReporter(),
        lambda f: rows[f.node],
        files=files,
    )


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())

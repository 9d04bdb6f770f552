"""Toy domains for tests of adaptation: clusters of vectors or tiny pictures, rotated or recoloured in the
target, and fits on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diffadapt.core.artifact import FEATURES_SCHEMA, Rows, Shard, image_table
from diffadapt.core.stage import FitJob, InputFile, NodePlan, PlannedShard, Stage, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.views import FeatureViews

CLASSES = 3
NAMES = ("red ball", "green ball", "blue ball")


def vectors(
    count: int = 180, width: int = 8, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((x, y) of the source, (x, y) of the target): three clusters in a plane, in the target turned and moved
    in and out of it."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(CLASSES) / CLASSES
    centres = np.zeros((CLASSES, width))
    centres[:, :2] = 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    moved = rng.normal(size=width)
    moved[:2] *= 1.0 / np.linalg.norm(moved[:2])
    moved[2:] *= 4.0 / np.linalg.norm(moved[2:])
    turn = np.eye(width)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    mixed = np.linalg.qr(rng.normal(size=(width, width)))[0]

    def domain(target: bool) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(count) % CLASSES
        x = centres[y] + 0.6 * rng.normal(size=(count, width))
        return ((x @ turn + moved if target else x) @ mixed).astype(np.float32), y

    return domain(False), domain(True)


def views(x: np.ndarray, y: np.ndarray, name: str = "t", weak: int = 2, seed: int = 0) -> FeatureViews:
    rng = np.random.default_rng(seed)
    noisy = x[:, None] + 0.05 * rng.normal(size=(len(x), weak, x.shape[1]))
    return FeatureViews(
        np.asarray(y, np.int64),
        [f"{name}/{i}" for i in range(len(x))],
        x,
        noisy.astype(np.float32),
        noisy.astype(np.float32),
    )


def accuracy(net: Any, x: np.ndarray, y: np.ndarray) -> float:
    with torch.no_grad():
        return float((net.logits(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def feature_rows(found: FeatureViews) -> Rows:
    flat = {kind: [v.ravel() for v in values] for kind, values in found.cached.items()}
    columns = {"key": found.keys, "label": [None if y < 0 else int(y) for y in found.labels], **flat}
    return Rows(
        pa.table({f.name: pa.array(columns[f.name], f.type) for f in FEATURES_SCHEMA}, schema=FEATURES_SCHEMA)
    )


def image_rows(
    labels: Sequence[int | None], name: str, side: int = 12, dark: bool = False, seed: int = 0
) -> Rows:
    """Noisy pictures whose brightest channel is their class; those of the target are dark."""
    rng = np.random.default_rng(seed)
    images = []
    for i, label in enumerate(labels):
        image = rng.integers(0, 60, (side, side, 3))
        image[3:9, 3:9, (i if label is None else label) % 3] += 60 if dark else 180
        images.append(encode_png(image.astype(np.uint8)))
    keys = [f"{name}/{i}" for i in range(len(labels))]
    return Rows(image_table(keys, list(labels), images, [0] * len(labels)))


def job(
    folder: Path, source: Rows, target: Rows, fitted: Mapping[str, str] | None = None, reporter: Any = None
) -> FitJob:
    """A fit whose inputs are one shard of the source and one of the target."""
    rows = {"source": source, "target": target}
    files = [InputFile(name, name, None, Shard("all", {}, (), len(r))) for name, r in rows.items()]
    files += [InputFile(name, name, None, Shard("all", {}), True, kind="filter") for name in fitted or {}]
    output = folder / "out"
    output.mkdir(parents=True, exist_ok=True)
    return FitJob(
        "uda",
        lambda node: [f for f in files if f.node == node],
        Store(str(folder)),
        str(folder / "checkpoints"),
        str(output),
        WorkContext("cpu", dict(fitted or {}), kinds=dict.fromkeys(fitted or {}, "filter")),
        reporter or LocalReporter(),
        lambda f: rows[f.node],
        files=files,
    )


def planned(name: str, stage: Stage) -> NodePlan:
    return NodePlan(name, stage, name, (), (PlannedShard(Shard("all", {}, (), 3), name, None),))

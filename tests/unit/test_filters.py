"""Filters of synthetic images: blank ones, near-duplicates, and CLIP's judgement; what is left out is counted
by class and reason."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import tinypipelines as tiny
from corekit import PlainRunner
from PIL import Image

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.stage import Stage, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.diffusion.generators.config import FilterConfig
from diffadapt.diffusion.generators.filters import near_duplicates, perceptual_hash, spread
from diffadapt.run.fit import run_fit
from diffadapt.stages.filter_images import FilterImages
from diffadapt.stages.roles import KEPT, kept_keys
from diffadapt.train.reporter import LocalReporter

NAMES = ("dog", "cat")


def picture(seed: int, side: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth coloured blobs."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    return image if channels == 3 else image[..., :1]


def test_spread_sees_colours_and_greys():
    assert spread(np.full((8, 8, 3), 77, np.uint8)) == 0
    red_to_green = np.zeros((8, 8, 3), np.uint8)
    red_to_green[:, :4, 0], red_to_green[:, 4:, 1] = 150, 76
    assert spread(red_to_green) > 30
    assert spread(np.array([[[0], [255]]], np.uint8)) == pytest.approx(127.5)


def test_perceptual_hash_tells_near_from_far():
    image = picture(0)
    brighter = np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8)
    with io.BytesIO() as buffer:
        Image.fromarray(image).save(buffer, "JPEG", quality=60)
        jpeg = np.asarray(Image.open(buffer))
    larger = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))

    def apart(a, b):
        return int(np.unpackbits(perceptual_hash(a) ^ perceptual_hash(b)).sum())

    assert perceptual_hash(image).shape == (8,) and perceptual_hash(image).dtype == np.uint8
    assert max(apart(image, other) for other in (brighter, jpeg, larger)) <= 8
    assert min(apart(image, picture(i)) for i in range(1, 20)) >= 14


def test_near_duplicates_compare_with_images_that_stay():
    bits = [0b0000, 0b0001, 0b0011, 0b0111, 0b0000]
    hashes = [np.array([b, 0, 0, 0, 0, 0, 0, 0], np.uint8) for b in bits]
    assert near_duplicates(hashes, 1) == [None, 0, None, 2, 0]
    assert near_duplicates(hashes, 0) == [None, None, None, None, 0]
    assert near_duplicates([], 3) == []


@dataclass(frozen=True)
class Given(Stage):
    """Two shards of images: those of ``spec`` by label."""

    kind: ClassVar[str] = "given"
    spec: tuple[tuple[int, str], ...] = ()

    def plan(self, inputs: Mapping) -> list[Shard]:
        half = len(self.spec) // 2
        return [
            Shard("a", {"from": 0, "to": half}, (), half),
            Shard("b", {"from": half, "to": len(self.spec)}, (), len(self.spec) - half),
        ]

    def open(self, context) -> _Given:
        return _Given(self)


class _Given:
    def __init__(self, stage: Given):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        keys, labels, images, failures = [], [], [], []
        for i in range(shard.params["from"], shard.params["to"]):
            label, what = self.stage.spec[i]
            key = f"synthetic/0/c{label:04d}/i{i:06d}"
            if what == "failed":
                failures.append(Failure(key, "blocked"))
                continue
            keys.append(key), labels.append(label)
            array = (
                np.full((32, 32, 3), 40, np.uint8)
                if what == "blank"
                else picture(int(what))
                if what.isdigit()
                else None
            )
            images.append(b"no image" if array is None else encode_png(array))
        return Rows(image_table(keys, labels, images, [0] * len(keys)), failures)


class Runner(PlainRunner):
    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        for task in fits:
            self._pass(run_fit(task, stages, store, LocalReporter("cpu")), on_receipt)


def filtered(tmp_path: Path, spec, names=NAMES, channels: int = 3, **config):
    """The filter's receipt, its folder and its metrics."""
    import json

    store, runner = Store(str(tmp_path)), Runner()
    pipeline = Pipeline(
        (
            Node("synth", Given(tuple(spec))),
            Node("filtered", FilterImages(FilterConfig(**config), names, channels), ("synth",)),
        )
    )
    plans = pipeline.plan(store)
    stages = {name: plan.stage for name, plan in plans.items()}
    while wave := next_wave(plans, finished(plans, store)):
        runner.run_chains(wave.chains, stages, store, lambda r: None)
        runner.run_fits(wave.fits, stages, store, "", lambda r: None, None)
        if runner.receipts[-1].status == "failed":
            return runner.receipts[-1], None, None
    folder = Path(store.join(plans["filtered"].shards[0].path))
    return runner.receipts[-1], folder, json.loads((folder / "metrics.json").read_text())


def test_counts_by_class_and_reason(tmp_path):
    spec = [(0, "1"), (0, "blank"), (0, "2"), (0, "1"), (1, "3"), (1, "bad"), (1, "failed"), (1, "1")]
    receipt, folder, metrics = filtered(tmp_path, spec, near_duplicates=4)
    assert receipt.status == "made"
    none = {"unreadable": 0, "blank": 0, "near_duplicate": 0, "clip": 0}
    assert metrics["classes"] == {
        "dog": {"made": 4, "kept": 2, "failed": 0, **none, "blank": 1, "near_duplicate": 1},
        "cat": {"made": 3, "kept": 2, "failed": 1, **none, "unreadable": 1},
    }
    assert (metrics["images"], metrics["kept"], metrics["warnings"]) == (7, 4, [])
    assert {f.key for f in receipt.failures} == {"synthetic/0/c0001/i000005", "synthetic/0/c0001/i000006"}
    table = pq.read_table(folder / KEPT)
    assert {f.name: str(f.type) for f in table.schema} == {
        "key": "string",
        "label": "int64",
        "kept": "bool",
        "reason": "string",
        "clip_probability": "float",
    }
    reasons = dict(zip(table.column("key").to_pylist(), table.column("reason").to_pylist(), strict=True))
    assert list(reasons) == sorted(reasons) and reasons["synthetic/0/c0000/i000003"] == "near_duplicate"
    assert reasons["synthetic/0/c0000/i000000"] == ""  # the first by key stays
    kept = kept_keys(WorkContext("cpu", {"f": str(folder)}, kinds={"f": "filter"}))
    assert kept == {k for k, r in reasons.items() if not r}
    assert "synthetic/0/c0001/i000007" in kept  # the same picture in another class is no duplicate


def test_everything_off_keeps_all(tmp_path):
    _, folder, metrics = filtered(tmp_path, [(0, "blank"), (0, "1"), (1, "1"), (1, "1")], blank=False)
    assert metrics["kept"] == 4


def test_a_class_that_loses_more_than_half_is_said(tmp_path):
    receipt, _, metrics = filtered(tmp_path, [(0, "1"), (0, "blank"), (0, "blank"), (1, "1"), (1, "blank")])
    assert (
        len(metrics["warnings"]) == 1
        and "1 of 3 images of 'dog'" in metrics["warnings"][0]
        and "2 blank" in metrics["warnings"][0]
    )
    assert receipt.warnings == tuple(metrics["warnings"])


def test_a_class_with_nothing_left_is_an_error_that_names_it(tmp_path):
    receipt, *_ = filtered(tmp_path, [(0, "1"), (1, "blank"), (1, "failed"), (1, "blank")])
    assert (
        receipt.status == "failed"
        and receipt.error.startswith("DataError")
        and "'cat'" in receipt.error
        and "2 blank" in receipt.error
    )
    receipt, *_ = filtered(tmp_path, [(0, "1"), (0, "2")])
    assert "'cat'" in receipt.error and "none was made" in receipt.error


def test_clip_keeps_what_it_recognises(tmp_path):
    """A random CLIP: the rule is checked against its own probabilities."""
    from diffadapt.models.clip import load_clip

    weights = tiny.clip(tmp_path / "clip", sharp=True)
    spec = [(i % 2, str(i)) for i in range(12)] + [(0, "blank")]
    clip = load_clip(weights)
    expected = clip.probabilities(
        [picture(int(w)) for _, w in spec[:12]], [["a photo of a dog"], ["a photo of a cat"]]
    )
    own = [float(p[label]) for p, (label, _) in zip(expected, spec[:12], strict=True)]
    assert 0 < sum(p > 0.5 for p in own) < 12
    receipt, folder, metrics = filtered(tmp_path / "store", spec, clip=weights)
    table = pq.read_table(folder / KEPT).to_pylist()
    found = {row["key"]: row for row in table}
    for i, p in enumerate(own):
        row = found[f"synthetic/0/c{spec[i][0]:04d}/i{i:06d}"]
        assert (
            row["clip_probability"] == pytest.approx(p, abs=1e-5)
            and row["kept"] == (p > 0.5)
            and row["reason"] == ("" if p > 0.5 else "clip")
        )
    assert found["synthetic/0/c0000/i000012"]["clip_probability"] is None  # blank: never asked
    assert sum(c["clip"] for c in metrics["classes"].values()) == sum(p <= 0.5 for p in own)
    strict = filtered(tmp_path / "store", spec, clip=weights, clip_threshold=min(own) / 2)[2]
    assert strict["kept"] == 12


def test_settings(tmp_path):
    for change, words in (
        ({"clip": "x/y", "clip_template": "a photo"}, "names no class"),
        ({"clip_threshold": 1.0}, "probability"),
        ({"near_duplicates": 65}, "64"),
    ):
        with pytest.raises(RecipeError, match=words):
            FilterImages(FilterConfig(**change), NAMES).plan({})
    assert (
        FilterImages(FilterConfig()).resources() == "cpu"
        and FilterImages(FilterConfig(clip="x/y")).resources() == "gpu"
    )

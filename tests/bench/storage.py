"""What keeping a shard costs: encoding its images, writing it, finding it again."""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from diffadapt.core.artifact import Rows, Shard, image_table, to_parquet
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.record import predictions_by_key
from diffadapt.core.stage import NodePlan, Stage
from diffadapt.core.store import Store
from diffadapt.data.image import decode, encode_png
from diffadapt.run.scores import scores_of
from diffadapt.stages.models import logits_rows
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size

IMAGES = 64


def storage(size: Size) -> Report:
    """A shard of 64 images of 256x256 pixels (smallest size: 32x32) on the local disk."""
    side = 32 if size.name == "tiny" else 256
    repeats = 3 if size.name == "tiny" else 15
    pixels = _images(side)
    encoded = [encode_png(p) for p in pixels]
    keys = [f"synthetic/0/c0000/i{i:06d}" for i in range(IMAGES)]
    rows = Rows(image_table(keys, [0] * IMAGES, encoded, [0] * IMAGES))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.prepare()
        names = iter(f"synth/bench/{i}.parquet" for i in range(10**6))
        commit = _median(lambda: store.commit(next(names), rows, {"digest": "0", "key": "k"}), repeats)
        found = _median(
            lambda: (store.exists("synth/bench/0.parquet"), store.header("synth/bench/0.parquet")), repeats
        )
        listed = _median(lambda: store.list("synth/bench"), repeats)
        loaded = _median(lambda: store.load("synth/bench/0.parquet"), repeats)
    encode = (
        _median(lambda: [encode_png(p) for p in pixels], max(1, repeats // 3), time.process_time) / IMAGES
    )
    decoding = (
        _median(lambda: [decode(e, 3, "k") for e in encoded], max(1, repeats // 3), time.process_time)
        / IMAGES
    )
    metrics = [
        Metric(
            "storage: commit of a shard",
            commit,
            "s",
            note=f"{len(to_parquet(rows, {})) / 2**20:.1f} MiB, synced to disk",
        ),
        Metric("storage: commit, an image", commit / IMAGES * 1e3, "ms"),
        Metric("storage: PNG encoding, an image", encode * 1e3, "ms", note="CPU time"),
        Metric("storage: PNG decoding, an image", decoding * 1e3, "ms", note="CPU time"),
        Metric("storage: finding a finished shard", found * 1e3, "ms"),
        Metric("storage: listing a family", listed * 1e3, "ms", note=f"{repeats} shards"),
        Metric("storage: reading a shard", loaded, "s"),
        *_scores(size),
    ]
    return Report(
        f"Storage of a shard of {IMAGES} images, {side}x{side}",
        metrics,
        ["smooth images with noise: about the bytes of a photograph; reading and writing in wall time"],
    )


def _scores(size: Size) -> list[Metric]:
    """What the scores of an ensemble of two cost: eight members of shards of 500 images and 1,000 classes
    (smallest size: 20 and 50)."""
    images, classes, members, shards = (20, 50, 8, 3) if size.name == "tiny" else (500, 1000, 8, 6)
    values = np.random.default_rng(0).normal(size=(images, classes)).astype(np.float32)
    labels = [i % classes for i in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        rows = tuple(MethodRow(f"r{i}", ("m0", f"m{i}")) for i in range(1, members))
        nodes = tuple(Node(f"m{i}", _Logits(f"m{i}", shards, images)) for i in range(members))
        pipeline = Pipeline(nodes, rows, (), {"target": "m0"})
        plans = pipeline.plan(store)
        for plan in plans.values():
            for s, p in enumerate(plan.shards):
                keys = [f"fog/5/{s}-{i}" for i in range(images)]
                store.commit(p.path or "", logits_rows(keys, labels, values, []), {"digest": p.digest})
        one = store.load(plans["m0"].shards[0].path or "")
        flat = _median(lambda: predictions_by_key([one]), 3, time.process_time) / images
        tracemalloc.start()
        try:
            scores_of("r", 0, pipeline, plans, store)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    whole = members * shards * images * classes * 4
    return [
        Metric("storage: logits of a shard, an image", flat * 1e6, "us", note=f"{classes} classes, CPU time"),
        Metric("storage: scoring, peak", peak / 2**20, "MiB", note=f"of {whole / 2**20:.0f} MiB of logits"),
    ]


@dataclass(frozen=True)
class _Logits(Stage):
    name: str = ""
    shards: int = 1
    images: int = 1

    kind = "logits"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard(f"s{i}", {"group": "fog/5"}, (), self.images) for i in range(self.shards)]


def _images(side: int) -> list[np.ndarray]:
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 8, 8, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1) * 255
    noisy = smooth + 8 * torch.randn(smooth.shape, generator=g)
    return list(noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())


def _median(work: Callable[[], object], repeats: int, now: Callable[[], float] = time.perf_counter) -> float:
    times = []
    for _ in range(repeats):
        start = now()
        work()
        times.append(now() - start)
    return statistics.median(times)

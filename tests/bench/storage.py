"""What keeping a shard costs: encoding its images, writing it, finding it again."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from diffadapt.core.artifact import Rows, image_table, to_parquet
from diffadapt.core.store import Store
from diffadapt.data.image import decode, encode_png
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
    ]
    return Report(
        f"Storage of a shard of {IMAGES} images, {side}x{side}",
        metrics,
        ["smooth images with noise: about the bytes of a photograph; reading and writing in wall time"],
    )


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

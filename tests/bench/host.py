"""What the host does for every image before a GPU sees it, and how many cores keep a stated GPU busy.

The stages run as they are, with networks that give zeros: what is left is reading, decoding, augmenting and
putting batches together. Seconds are CPU seconds of this process, so that other programs do not count.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_jpeg
from diffadapt.methods.config import MemoConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.train.config import FitConfig
from diffadapt.train.reporter import LocalReporter
from tests.bench.metric import Metric, Report

BUSY = 0.8
"""The share of a GPU's time that is to be work."""
CORES = 8
"""Cores beside one GPU."""
READERS = 2
"""Threads that prepare in the measurement; what one core does in a millisecond does not depend on it."""


@dataclass(frozen=True)
class Amount:
    """Sides of the images and how many are timed."""

    crop: int
    aligned: int
    photo: tuple[int, int]
    images: int
    batch: int
    views: int


AMOUNTS = {
    "tiny": Amount(crop=16, aligned=20, photo=(20, 24), images=6, batch=2, views=2),
    "small": Amount(crop=224, aligned=256, photo=(375, 500), images=192, batch=32, views=64),
    "published": Amount(crop=224, aligned=256, photo=(375, 500), images=1024, batch=32, views=64),
}


@dataclass(frozen=True)
class Row:
    """One kind of work. ``gpu``: ideal milliseconds of an H200 for one ``unit`` (ResNet-50 at 224)."""

    name: str
    unit: str
    gpu: float
    overlaps: bool
    """Whether the thread that launches kernels does its own part while the device works on the last one."""
    aim: int | None = None
    measure: Callable[[Amount], tuple[float, float]] | None = None


def host(size: Any) -> Report:
    """Host milliseconds of each stage, how many of them are the launching thread's own, and cores."""
    amount = AMOUNTS[size.name]
    metrics: list[Metric] = []
    for row in ROWS:
        assert row.measure is not None
        total, own = row.measure(amount)
        metrics += [
            Metric(f"host: {row.name}", total, f"ms {row.unit}"),
            Metric(f"host: {row.name}, in the launching thread", own, f"ms {row.unit}"),
            *_cores(row, total, own, size.name != "tiny"),
        ]
    photos = f"{amount.photo[1]}x{amount.photo[0]}"
    return Report(
        f"Host work on one core, {amount.images} images, crops of {amount.crop}",
        metrics,
        [
            f"photos are {photos}, aligned images {amount.aligned}x{amount.aligned}, target images"
            f" {amount.crop}x{amount.crop}, all JPEG",
            "GPU milliseconds are ideal ones of an H200, not measured; the cores follow from them",
        ],
    )


def busy(row: Row, total: float, own: float, cores: int) -> float:
    """The share of its time that the GPU works when ``cores`` serve it, one of them for launching."""
    if cores < 2:
        return row.gpu / (row.gpu + total) if not row.overlaps else min(1.0, row.gpu / max(total, 1e-9))
    device = max(row.gpu, own) if row.overlaps else row.gpu + own
    return row.gpu / max(device, (total - own) / (cores - 1), 1e-9)


def _cores(row: Row, total: float, own: float, judged: bool) -> Iterator[Metric]:
    shares = [busy(row, total, own, cores) for cores in range(1, 129)]
    needed = next((i + 1 for i, share in enumerate(shares) if share >= BUSY), None)
    aim = CORES if judged and row.aim else None
    yield Metric(
        f"host: {row.name}, GPU busy with {CORES} cores", busy(row, total, own, CORES), "of its time",
        BUSY if aim else None, note=f"ideal H200: {row.gpu:g} ms {row.unit}",
    )  # fmt: skip
    yield Metric(
        f"host: {row.name}, cores for {BUSY:.0%} of a GPU", float(needed or 128), "cores", aim, "lower",
        note="" if needed else "not reached: the launching thread is the limit",
    )  # fmt: skip


def photo(height: int, width: int, seed: int, quality: int = 85) -> bytes:
    """A JPEG with a photograph's spectrum (amplitude 1/f), so that it decodes in a photograph's time."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1.0
    shape = (3, *f.shape)
    planes = np.fft.irfft2((rng.normal(size=shape) + 1j * rng.normal(size=shape)) / f**1.2, s=(height, width))
    planes -= planes.mean((1, 2), keepdims=True)
    grey = planes.mean(0)
    mixed = (0.8 * grey + 0.2 * planes) / (grey.std() + 1e-9)
    return encode_jpeg(np.clip(128 + 45 * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0), quality)


def rows_of(count: int, height: int, width: int, quality: int = 85) -> Rows:
    """Labelled rows of such images, of which a few are made and repeated."""
    made = [photo(height, width, i, quality) for i in range(min(8, count))]
    images = [made[i % len(made)] for i in range(count)]
    keys = [f"bench/1/{i:06d}.jpg" for i in range(count)]
    return Rows(image_table(keys, [i % 2 for i in range(count)], images, [0] * count, ".jpg"))


class Zeros(nn.Module):
    """Maps n images to n rows of zeros, whatever they are and wherever they lie."""

    def __init__(self, width: int = 1000):
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.width)


def timed(work: Callable[[], object], count: int) -> tuple[float, float]:
    """CPU milliseconds for one of ``count``: of the process, and of this thread alone."""
    work()  # imports, pools, caches
    process, thread = time.process_time(), time.thread_time()
    work()
    own = time.thread_time() - thread
    return 1000 * (time.process_time() - process) / count, 1000 * own / count


def inputs(amount: Amount, **more: Any) -> dict[str, Any]:
    resize = round(amount.crop * 256 / 224)
    return dict(
        resize=resize, crop=amount.crop, interpolation="bicubic", mean=(0.5,) * 3, std=(0.2,) * 3,
        batch_size=amount.batch, **more,
    )  # fmt: skip


def context() -> WorkContext:
    """A worker whose device takes no time: tensors without storage."""
    return WorkContext("meta", readers=READERS)


def logits(amount: Amount) -> tuple[float, float]:
    from diffadapt.tasks.classification.predict import Predict

    rows = rows_of(amount.images, amount.crop, amount.crop)
    stage = Predict(classifier=ClassifierConfig(name="bench", **inputs(amount)))
    with mock.patch("diffadapt.tasks.classification.predict.open_classifier", lambda *a: Zeros()):
        worker = stage.open(context())
    return timed(lambda: worker.run(Shard("all", {}), [rows]), amount.images)


def features(amount: Amount) -> tuple[float, float]:
    from diffadapt.tasks.classification.features import Features

    count = max(4, amount.images // 8)
    rows = rows_of(count, *amount.photo)
    stage = Features(BackboneConfig(name="bench", weak_views=1, strong_views=1, **inputs(amount)))
    with mock.patch(
        "diffadapt.models.backbone.load_backbone", lambda *a: SimpleNamespace(module=Zeros(2048))
    ):
        worker = stage.open(context())
    return timed(lambda: worker.run(Shard("all", {}), [rows]), count)


def memo(amount: Amount) -> tuple[float, float]:
    from diffadapt.tasks.classification.adapt_online import Memo

    count = 2 if amount.views < 64 else 4
    rows = rows_of(count, amount.crop, amount.crop)
    stage = Memo(
        config=MemoConfig(views=amount.views), classifier=ClassifierConfig(name="bench", **inputs(amount))
    )
    with mock.patch(
        "diffadapt.tasks.classification.adapt_online.open_classifier", lambda *a: Zeros().to("cpu")
    ):
        worker: Any = stage.open(context())
    worker.method.adapted = lambda image, drawn, parts: np.zeros(1000, np.float32)
    return timed(lambda: worker.run(Shard("all", {"take": count}), [rows]), count)


def fine_tuning(augment: str) -> Callable[[Amount], tuple[float, float]]:
    def measure(amount: Amount) -> tuple[float, float]:
        from diffadapt.tasks.classification.augment import make_augment
        from diffadapt.tasks.classification.batches import Batches, Labelled
        from diffadapt.tasks.classification.fit_classifier import FitClassifier

        count = amount.images
        config = FitConfig(batch_size=amount.batch, augment=augment)  # type: ignore[arg-type]
        classifier = ClassifierConfig(name="train", arch="cifar_resnet8", **inputs(amount))
        stage = FitClassifier(
            config=config, classifier=classifier, num_classes=2, init="scratch", image_size=amount.aligned
        )
        rows = rows_of(count, amount.aligned, amount.aligned, 75)
        with fitted(stage, [rows], "diffadapt.tasks.classification.training.fit_classifier") as given:
            images, labels = given.args[1], given.kwargs["labels"]
            pairs = images if labels is None else Labelled(images, labels)
            batches = Batches(pairs, make_augment(config, classifier), batch_size=amount.batch)
            steps = count // amount.batch
            total, _ = timed(lambda: [batches.make(step, 0) for step in range(steps)], steps * amount.batch)
            batches.readers = 1  # the readers are processes; of what they hand over this is all that is left
            place = itertools.count()  # in order, so that they are not started anew
            handed = timed(lambda: [batches(next(place), 0) for _ in range(steps)], steps * amount.batch)
        return total + handed[1], handed[1]

    return measure


def adaptation(amount: Amount) -> tuple[float, float]:
    from diffadapt.tasks.classification.fit_uda import FitUda
    from diffadapt.train.pair_batches import PairBatches
    from diffadapt.train.step_batches import Share

    count = max(4, amount.images // 8)
    backbone = BackboneConfig(
        name="train", arch="cifar_resnet8", frozen=False, crop_mode="squash", **inputs(amount)
    )
    config = UdaConfig(batch_size=amount.batch)
    stage = FitUda(config=config, backbone=backbone, num_classes=2)
    rows = rows_of(count, *amount.photo)
    with fitted(stage, [rows, rows], "diffadapt.tasks.classification.adaptation.fit_uda") as given:
        source, target = given.args[:2]
        net: Any = SimpleNamespace(method=config.chosen)
        with PairBatches(source, target, config, net, Share(readers=READERS)) as batches:
            steps = max(1, count // amount.batch)
            return timed(lambda: [batches.make(step) for step in range(steps)], steps)


@contextmanager
def fitted(stage: Any, sets: list[Rows], trains: str) -> Iterator[Any]:
    """The call of the function ``trains`` that ``stage`` makes of ``sets``, whose pixels do not fit into
    memory."""
    from diffadapt.stages import gather

    files = [InputFile(f"set{i}", f"{i}" * 32, None, Shard("all", {}), False) for i in range(len(sets))]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, DIFFADAPT_CACHE=f"{folder}/cache"))
        stack.enter_context(mock.patch.object(gather.Gathering.__init__, "__defaults__", (1,)))
        call = stack.enter_context(mock.patch(trains, side_effect=_Stop))
        job = FitJob(
            node="bench", inputs=lambda node: [f for f in files if f.node == node], store=Store(folder),
            checkpoints=f"{folder}/checkpoints", output=folder, context=WorkContext("cpu"),
            reporter=LocalReporter(), read=lambda f: sets[files.index(f)], files=files,
        )  # fmt: skip
        try:
            stage.train(job)
        except _Stop:
            pass
        yield call.call_args


class _Stop(Exception):
    """The training would begin here."""


ROWS = (
    Row("fine-tuning, augment resnet", "an image", 0.4, True, CORES, fine_tuning("resnet")),
    Row("fine-tuning, augment transformer", "an image", 0.4, True, None, fine_tuning("transformer")),
    Row("logits of a target", "an image", 0.18, False, CORES, logits),
    Row("features, three views", "an image", 0.54, False, None, features),
    Row("MEMO, 64 views", "an image", 35.0, False, None, memo),
    Row("adaptation, 32 + 32 a step", "a step", 35.0, True, CORES, adaptation),
)
assert math.isclose(ROWS[3].gpu, 3 * ROWS[2].gpu)

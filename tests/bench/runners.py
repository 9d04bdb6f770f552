"""What Ray adds to a bare loop over the same shards once its actor is warm; starting it is stated apart."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from diffadapt.core.artifact import Receipt
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.store import Store
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.run.executor import Executor
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.synthesize import Synthesize
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size
from tests.bench.processes import every_process

TARGET = 0.03
CLASSES = 10
WARM = 2
"""Shards of a pass that are not counted: the first loads the model, and its receipt may come late."""


@dataclass
class Course:
    """One pass over all shards: when it began, when each receipt came, and what CPU time had been used by
    then."""

    start: float
    stamps: list[float]
    cpu: list[float]
    """Of this process; on Ray also of all that it started, servers and workers included."""
    receipts: list[Receipt]

    def periods(self) -> list[float]:
        """Seconds from receipt to receipt once warm."""
        warm = self.stamps[WARM - 1 :]
        return [b - a for a, b in zip(warm, warm[1:], strict=False)]

    def cpu_period(self) -> float:
        """Mean CPU seconds of a shard once warm."""
        return (self.cpu[-1] - self.cpu[WARM - 1]) / (len(self.cpu) - WARM)

    def outside(self) -> float:
        """Share of those periods that was not spent on making and committing a shard."""
        inside = sum(r.seconds for r in self.receipts[WARM:])
        return (sum(self.periods()) - inside) / inside

    def startup(self) -> float:
        return self.stamps[0] - self.start - self.receipts[0].seconds


def runners(size: Size) -> Report:
    """Synthesis with the shipped network, one actor and one CPU thread on each side, in turns."""
    from diffadapt.orchestrate.runner import RayRunner

    load, threads = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = _calibrate(size.shard_seconds)
        config = ExecutionConfig(runner="ray", device="cpu", actors=1, threads=1)
        runner = RayRunner(config)
        begin = time.perf_counter()
        runner.prepare()
        up = time.perf_counter() - begin
        try:
            pairs = [
                (_bare(images, size.shards), _ray(runner, images, size.shards)) for _ in range(size.rounds)
            ]
        finally:
            runner.close()
    finally:
        torch.set_num_threads(threads)
    bare = statistics.median(p for b, _ in pairs for p in b.periods())
    pooled = statistics.median(p for _, r in pairs for p in r.periods())
    bare_cpu = statistics.median(b.cpu_period() for b, _ in pairs)
    pooled_cpu = statistics.median(r.cpu_period() for _, r in pairs)
    quiet = load < (os.cpu_count() or 1) / 2
    judged = size.name != "tiny" and quiet
    metrics = [
        Metric(
            "runners: a shard in a bare loop",
            bare,
            "s",
            note=f"{images * CLASSES} images, median of {size.rounds} x {size.shards - WARM}",
        ),
        Metric("runners: a shard on one Ray actor", pooled, "s"),
        Metric("runners: overhead of Ray", pooled / bare - 1, "", TARGET if judged else None, "lower"),
        Metric("runners: CPU time of a shard in a bare loop", bare_cpu, "s"),
        Metric("runners: CPU time of a shard on Ray, all its processes", pooled_cpu, "s"),
        Metric(
            "runners: overhead of Ray in CPU time",
            pooled_cpu / bare_cpu - 1,
            "",
            note="with Ray's idle servers, which a busy machine makes weigh more",
        ),
        Metric(
            "runners: time between shards, Ray",
            statistics.median(r.outside() for _, r in pairs),
            "of a shard",
        ),
        Metric(
            "runners: time between shards, bare loop",
            statistics.median(b.outside() for b, _ in pairs),
            "of a shard",
        ),
        Metric("runners: starting Ray", up, "s"),
        Metric(
            "runners: starting the pool's actor",
            statistics.median(r.startup() for _, r in pairs),
            "s",
            note="once a wave; the model's loading apart",
        ),
    ]
    conditions = [
        f"same shards, same executor, one CPU thread each, in turns; the first {WARM} shards of each pass are"
        " not counted"
    ]
    if not quiet:
        conditions.append(
            f"other programs kept the machine busy (load {load:.1f}): differences of a few percent mean"
            " nothing, so the target is not judged"
        )
    return Report("Ray against a bare loop", metrics, conditions)


def _pipeline(images: int, shards: int) -> Pipeline:
    config = SynthConfig(
        weights="embedded:digits-dit",
        images_per_class=images * shards,
        images_per_shard=images,
        classes_per_shard=CLASSES,
        steps=25,
        output="round",
        batch_size=250,
    )
    return Pipeline((Node("synth", Synthesize(config, CLASSES)),))


def _calibrate(wanted: float) -> int:
    """Images of each class that make a shard of about ``wanted`` seconds of CPU time."""
    images = 2
    while True:
        course = _bare(images, 2)
        spent = course.cpu[1] - course.cpu[0]
        if spent >= 0.7 * wanted:
            return images
        images = max(images + 1, min(8 * images, round(images * wanted / max(spent, 1e-3))))


def _bare(images: int, shards: int) -> Course:
    with tempfile.TemporaryDirectory() as folder:
        store, stages, wave = _wave(folder, images, shards)
        course = Course(time.perf_counter(), [], [], [])
        executor = Executor(stages, store, device="cpu", threads=1)
        for chain in wave.chains:
            for task in chain.tasks:
                _note(course, executor.run(task), time.process_time())
    return course


def _ray(runner, images: int, shards: int) -> Course:
    with tempfile.TemporaryDirectory() as folder:
        store, stages, wave = _wave(folder, images, shards)
        course, seen = Course(time.perf_counter(), [], [], []), {}
        runner.run_chains(
            wave.chains, stages, store, lambda receipt: _note(course, receipt, _family_cpu(seen))
        )
    return course


def _wave(folder: str, images: int, shards: int):
    store = Store(str(Path(folder) / "store"))
    store.prepare()
    plans = _pipeline(images, shards).plan(store)
    return store, {n: p.stage for n, p in plans.items()}, next_wave(plans, finished(plans, store))


def _note(course: Course, receipt: Receipt, cpu: float) -> None:
    course.stamps.append(time.perf_counter())
    course.cpu.append(cpu)
    assert receipt.status == "made", receipt.error
    course.receipts.append(receipt)


def _family_cpu(seen: dict[int, float]) -> float:
    """CPU time so far of this process and all its descendants, by /proc; ``seen`` keeps what ended ones had
    used."""
    parents, used = every_process()
    todo = [os.getpid()]
    while todo:
        current = todo.pop()
        seen[current] = used.get(current, seen.get(current, 0.0))
        todo += [pid for pid, parent in parents.items() if parent == current]
    return sum(seen.values())

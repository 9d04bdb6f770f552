"""``python -m tests.bench.planning``: time and memory to plan ten million synthetic images, to go on with a
full store, to take receipts.

The real recipe type, the quickstart's with a grid of 1,000 classes x 10,000 images in shards of the default
size, and a real store: the local disk when it is empty, fsspec's in-memory file system with a name for every
shard when it is full.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

TARGET = 60.0
CLASSES = 1000
SAMPLE = 20_000
"""Shards whose footers are read, and receipts that are taken, to give a rate."""


class Course:
    """Named steps, each printed with its wall and CPU time, and the peak memory of this process after it."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    def step(self, name: str, work: Callable[[], Any], note: Callable[[Any], str] = lambda value: "") -> Any:
        wall, used = time.perf_counter(), time.process_time()
        value = work()
        self.steps[name] = time.perf_counter() - wall
        print(
            f"  {name:<52} {self.steps[name]:>7.2f} s  CPU {time.process_time() - used:>6.2f} s  peak"
            f" {peak():>6.0f} MiB  {note(value)}",
            flush=True,
        )
        return value


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(data: bytes) -> str:
    return f"{len(data) / 2**20:.0f} MiB"


def recipe(images_per_class: int) -> Any:
    """The quickstart, asked for so many images of each of 1,000 classes, in shards of the default size."""
    from diffadapt.core.config import override
    from diffadapt.core.recipes import load
    from diffadapt.diffusion.generators.config import SynthConfig

    shard = SynthConfig()
    changes = {
        "weights": shard.weights,
        "images_per_class": images_per_class,
        "images_per_shard": shard.images_per_shard,
        "classes_per_shard": shard.classes_per_shard,
    }
    return override(
        load("quickstart"), {**{f"synth.{k}": v for k, v in changes.items()}, "num_classes": CLASSES}
    )


def planned(pipeline: Any, store: Any) -> Any:
    """The plan; a generator of 1,000 classes need not be at hand for it."""
    from diffadapt.core.leniency import lenient

    with lenient():
        return pipeline.plan(store)


def empty(images_per_class: int) -> dict[str, float]:
    """A new run up to the moment that work is handed to the workers."""
    from diffadapt.api.plan import format_plan
    from diffadapt.core import manifest
    from diffadapt.core.config import to_dict
    from diffadapt.core.plan import summarise
    from diffadapt.core.schedule import finished, next_wave
    from diffadapt.core.store import Store
    from diffadapt.orchestrate.pool import bundle

    course = Course()
    value = recipe(images_per_class)
    config = to_dict(value, identity_only=True)
    print(f"Empty store (this process before: {peak():.0f} MiB)")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        pipeline = course.step("recipe: read data, check settings", value.pipeline)
        plans = course.step(
            "plan: digests and names of all shards",
            lambda: planned(pipeline, store),
            lambda p: f"{sum(len(n.shards) for n in p.values()):,} shards, {p['synth'].items:,} images",
        )
        summary = course.step(
            "plan: list the store, count", lambda: summarise(plans, store), lambda s: f"{s.missing:,} to make"
        )
        course.step("plan: print", lambda: format_plan("planning", summary))
        planning = sum(course.steps.values())
        print(
            f"  {'`diffadapt plan` in all':<52} {planning:>7.2f} s  target <= {TARGET:g} s:"
            f" {'reached' if planning <= TARGET else 'MISSED'}"
        )
        course.step("run: its digest", lambda: manifest.run_digest(config, plans))
        course.step(
            "run: planned.json",
            lambda: json.dumps([p.path for plan in plans.values() for p in plan.shards if p.path]).encode(),
            size,
        )
        done = course.step("run: list the store", lambda: finished(plans, store))
        wave = course.step(
            "run: first wave", lambda: next_wave(plans, done), lambda w: f"{len(w.chains):,} chains"
        )
        course.step(
            "run: bundles for 64 actors",
            lambda: bundle(wave.chains, 64),
            lambda b: f"{len(b):,} bundles, {sum(map(len, b)) / 2**20:.0f} MiB",
        )
        course.step(
            "end: manifest",
            lambda: json.dumps(
                manifest.build("planning", config, 0, pipeline, plans, {}), indent=1, sort_keys=True
            ).encode(),
            size,
        )
        course.step(
            "receipts: taken by the driver",
            lambda: receipts(plans, folder),
            lambda rate: f"{rate:,.0f} a second",
        )
    return {"planning": planning, "all": sum(course.steps.values()), "peak": peak()}


def receipts(plans: Any, folder: str) -> float:
    """Receipts a second through progress, ledger, quarantine and metrics, as the driver takes them from the
    pool."""
    import pickle

    from diffadapt.core.artifact import Receipt
    from diffadapt.core.runs import Root, Run
    from diffadapt.orchestrate.metrics import counted
    from diffadapt.run.progress import NodeProgress, Progress
    from diffadapt.run.work import Work

    root = Root(folder)
    progress = Progress(
        {n: NodeProgress(len(p.shards), p.items) for n, p in plans.items() if p.stage.stored},
        stream=io.StringIO(),
    )
    work = Work(Run(root, "bench"), root.store, plans, progress, 0.05)
    receive = counted(work._receipt)
    packed = [
        pickle.dumps(
            Receipt("synth", p.shard.key, p.digest, "made", p.shard.items, (), 30.0, "host:1", device="cuda")
        )
        for p in plans["synth"].shards[:SAMPLE]
    ]
    start = time.perf_counter()
    for one in packed:
        receive(pickle.loads(one))
    return len(packed) / (time.perf_counter() - start)


def full(images_per_class: int) -> dict[str, float]:
    """A run that goes on when every synthetic and aligned image is there."""
    import fsspec

    from diffadapt.core.artifact import Rows, image_table
    from diffadapt.core.plan import summarise
    from diffadapt.core.schedule import finished, next_wave
    from diffadapt.core.store import Store

    course = Course()
    store = Store("memory://planning")
    pipeline = recipe(images_per_class).pipeline()
    plans = planned(pipeline, store)
    store.commit("one.parquet", Rows(image_table(["k"], [0], [b"x"], [0])), {"digest": "d", "key": "k"})
    content = store.read_bytes("one.parquet")
    memory = fsspec.filesystem("memory")
    names = [p.path for n in ("synth", "aligned") for p in plans[n].shards]
    for name in names:
        memory.pipe_file(store.join(name), content)
    del plans
    gc.collect()
    before = peak()
    print(
        f"Full store ({len(names):,} shards in a file system in memory; this process before: {before:.0f}"
        " MiB, with the file system)"
    )
    plans = course.step("plan: digests and names of all shards", lambda: planned(pipeline, store))
    course.step(
        "plan: list the store, count", lambda: summarise(plans, store), lambda s: f"{s.missing:,} to make"
    )
    planning = sum(course.steps.values())
    print(
        f"  {'`diffadapt plan` in all':<52} {planning:>7.2f} s  target <= {TARGET:g} s:"
        f" {'reached' if planning <= TARGET else 'MISSED'}"
    )
    done = course.step("run: list the store", lambda: finished(plans, store))
    sample = names[:SAMPLE]
    course.step(
        "run: what was set apart, from shards' footers",
        lambda: store.headers(sample),
        lambda h: f"{len(h):,} of {len(names):,}",
    )
    course.step(
        "run: first wave",
        lambda: next_wave(plans, done),
        lambda w: f"{len(w.chains):,} chains, {len(w.fits)} fits",
    )
    return {"planning": planning, "all": sum(course.steps.values()), "added": peak() - before}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.planning",
        description="Planning very many images; never fails on a slow machine.",
    )
    parser.add_argument("--images-per-class", type=int, default=10_000, help="of 1,000 classes")
    parser.add_argument("--part", choices=["empty", "full"], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        {"empty": empty, "full": full}[options.part](options.images_per_class)
        return 0
    print(
        f"{CLASSES * options.images_per_class:,} synthetic images, planned and aligned; load"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )
    for part in ("empty", "full"):  # in a process of its own each, so that peaks do not mix
        command = [
            sys.executable,
            "-m",
            "tests.bench.planning",
            "--part",
            part,
            "--images-per-class",
            str(options.images_per_class),
        ]
        if code := subprocess.run(command).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

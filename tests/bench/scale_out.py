"""``python -m tests.bench.scale_out``: images/s of 1, 8, 64, 256 simulated GPUs against ideal, and what sets
the limit.

The real driver, pool, journal and store, on one local Ray that is told it has so many GPUs; only the
generator is replaced, by one that sleeps. Every size runs in a process of its own. Wall time on a machine
that does other work means little: the load is printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass

from diffadapt.core.artifact import Receipt
from tests.bench.processes import cpu, worker_pss

TARGET = 0.95
JUDGED = 64
"""GPUs at which the target is set."""
SECONDS = 15.0
"""Of sleep a shard. A shard is 64 images of 256x256: DiT-XL/2 at 250 steps is 59 TFLOP an image (2 x 118.6
GFLOP x 250), 64 of them 25 s at a sustained 150 TFLOP/s, and their alignment several times that. So we are
given less time than the truth."""
IMAGES = 64
SETTLE = 2.0
"""Seconds after the last actor's first receipt before times count: the measuring itself holds up receipts
then."""
LIMIT_ACTORS = 2
ACTOR_MEMORY = 130 * 2**20
FEW = 64
"""Processes where memory does not hold one for each GPU: each then stands for several and makes its shards so
many times as fast."""
CHILD_SECONDS = 900.0


@dataclass
class Measured:
    """One size. Times in seconds, memory in MiB, CPU in milliseconds a shard. ``seconds`` of sleep a shard in
    each of ``processes``."""

    gpus: int
    processes: int
    shards: int
    seconds: float
    images: int
    ray: float
    """Starting Ray."""
    start: float
    """From handing over the work until every actor had finished a first shard, less its sleep."""
    share: float
    """Of ideal: sleep over the mean time from one receipt of an actor to its next, once all actors work; 0
    without sleep."""
    wall: float
    """From handing over the work to the last receipt."""
    rate: float
    """Images a second once all actors work."""
    driver: float
    """Peak resident memory of the driver."""
    worker: float
    """Proportional set size of an actor."""
    cpu_driver: float
    cpu_servers: float
    cpu_workers: float
    load: float

    @property
    def ideal(self) -> float:
        return self.processes * self.images / self.seconds if self.seconds else float("inf")

    def line(self) -> str:
        return (
            f"  {self.gpus:>5} {self.processes:>6} {self.shards:>7} {self.rate:>9.1f} {self.ideal:>8.1f}"
            f" {self.share:>7.1%} {self.ray:>6.1f} {self.start:>7.1f} {self.wall:>7.1f} {self.driver:>8.0f}"
            f" {self.worker:>8.0f} {self.cpu_driver:>8.1f} {self.cpu_servers:>8.1f} {self.cpu_workers:>8.1f}"
            f" {self.load:>6.1f}"
        )


HEADER = (
    f"  {'GPUs':>5} {'actors':>6} {'shards':>7} {'images/s':>9} {'ideal':>8} {'share':>7} {'Ray':>6}"
    f" {'actors':>7} {'wall':>7} {'driver':>8} {'actor':>8} {'driver':>8} {'servers':>8} {'actor':>8}"
    f" {'load':>6}\n  {'':>5} {'':>6} {'':>7} {'':>9} {'':>8} {'':>7} {'up [s]':>6} {'up [s]':>7} {'[s]':>7}"
    f" {'MiB':>8} {'MiB':>8} {'- CPU ms a shard -':^26} {'':>6}"
)


def simulate(gpus: int, actors: int, shards: int, seconds: float) -> Measured:
    """``shards`` shards of ``seconds`` on ``actors`` actors that stand for ``gpus``, on a Ray started and
    ended here. Once a process: it sets the environment."""
    os.environ.update(
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DATA_DISABLE_PROGRESS_BARS="1",
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
    )
    import ray

    from diffadapt.core.schedule import finished, next_wave
    from diffadapt.core.store import Store
    from diffadapt.orchestrate.runner import RayRunner
    from diffadapt.run.runner import ExecutionConfig
    from tests.bench.sleeping import Asleep, sleeping

    stamps: dict[str, list[float]] = defaultdict(list)
    marks: list[tuple[int, Counter[str]]] = []
    sizes: list[float] = []

    def receive(receipt: Receipt) -> None:
        assert receipt.status == "made", receipt.error
        stamps[receipt.worker].append(time.perf_counter() - begin)
        count = sum(map(len, stamps.values()))
        if (len(stamps) == actors and not marks) or (marks and len(marks) == 1 and count == shards):
            marks.append((count, cpu()))
            sizes.append(worker_pss())

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        begin = time.perf_counter()
        ray.init(
            address="local",
            num_cpus=4 + actors // 8,
            num_gpus=actors,
            object_store_memory=300 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
        up = time.perf_counter() - begin
        try:
            store = Store(os.path.join(folder, "store"))
            store.prepare()
            plans = sleeping(Asleep(shards, IMAGES, seconds=seconds)).plan(store)
            wave = next_wave(plans, finished(plans, store))
            runner = RayRunner(ExecutionConfig(device="cuda", actors=actors))
            runner.prepare()
            begin = time.perf_counter()
            runner.run_chains(wave.chains, {n: p.stage for n, p in plans.items()}, store, receive)
            assert {p.digest for p in plans["asleep"].shards} <= finished(plans, store), (
                "a shard is not in the store"
            )
        finally:
            ray.shutdown()
    (first, before), (last, after) = marks
    wall = max(s[-1] for s in stamps.values())
    working = max(s[0] for s in stamps.values())
    share = steady_share(list(stamps.values()), seconds)
    return Measured(
        gpus,
        actors,
        shards,
        seconds,
        IMAGES,
        up,
        working - seconds,
        share,
        wall,
        share * actors * IMAGES / seconds if seconds else (last - first) * IMAGES / (wall - working),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        sizes[0],
        *((after[kind] - before[kind]) / (last - first) * 1000 for kind in ("driver", "servers", "workers")),
        os.getloadavg()[0],
    )


def steady_share(stamps: list[list[float]], seconds: float) -> float:
    """Sleep over the mean time between two receipts of one actor, counted from when the last actor has its
    first."""
    all_work = max(s[0] for s in stamps)
    steady = [[t for t in s if t >= all_work + min(SETTLE, seconds / 2)] for s in stamps]
    gaps = sum(s[-1] - s[0] for s in steady if len(s) > 1)
    return seconds * sum(len(s) - 1 for s in steady if len(s) > 1) / gaps if gaps else 0.0


def actors_for(gpus: int, available: float) -> int:
    """One process for each GPU, or so few that each stands for a whole number of them and ``available`` bytes
    hold all."""
    return gpus if gpus <= FEW or gpus * ACTOR_MEMORY < 0.7 * available else math.gcd(gpus, FEW)


def available_memory() -> float:
    """Bytes that programs can still have; none known where there is no /proc."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024.0 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0.0


def in_process(gpus: int, actors: int, shards: int, seconds: float) -> Measured | None:
    """:func:`simulate` in a process of its own; None when it does not come to its end."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file, tempfile.TemporaryFile() as said:
        command = [
            sys.executable,
            "-m",
            "tests.bench.scale_out",
            "--one",
            file.name,
            "--gpus",
            str(gpus),
            "--actors",
            str(actors),
            "--shards",
            str(shards),
            "--seconds",
            str(seconds),
        ]
        child = subprocess.Popen(
            command, start_new_session=True, stdout=said, stderr=said
        )  # Ray has much to say on so many processes
        try:
            child.wait(CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        text = file.read()
        if not text:
            said.seek(0)
            print(b"\n".join(said.read().splitlines()[-8:]).decode(errors="replace"), file=sys.stderr)
        return Measured(**json.loads(text)) if text else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scale_out",
        description="Simulated GPUs against ideal; never fails on a slow machine.",
    )
    parser.add_argument("--gpus", default="1,8,64,256", help="how many, with commas between")
    parser.add_argument("--each", type=int, default=6, help="shards for each GPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of sleep a shard")
    parser.add_argument("--limit", type=int, default=3000, help="shards of the run without sleep; 0: none")
    parser.add_argument("--json", help="also write the numbers to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--actors", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    sizes = [int(n) for n in options.gpus.split(",")]
    if options.one:
        measured = simulate(sizes[0], options.actors, options.shards, options.seconds)
        with open(options.one, "w", encoding="utf-8") as file:
            json.dump(asdict(measured), file)
        return 0
    print(
        f"Simulated GPUs on {os.cpu_count()} cores: {IMAGES} images and {options.seconds:g} s of sleep a"
        f" shard, {options.each} shards a GPU\n\n{HEADER}",
        flush=True,
    )
    found = []
    for gpus in sizes:
        actors = actors_for(gpus, available_memory())
        measured = in_process(gpus, actors, gpus * options.each, options.seconds * actors / gpus)
        print(
            (
                measured.line()
                if measured
                else f"  {gpus:>5} did not come to its end within {CHILD_SECONDS:g} s"
            ),
            flush=True,
        )
        if measured:
            found.append(measured)
            if gpus == JUDGED:
                judge(measured)
            if actors < gpus:
                print(
                    f"        {gpus} processes do not fit this machine's memory: {actors} stand for"
                    f" {gpus // actors} GPUs each and make shards that many times as fast",
                    flush=True,
                )
    if options.limit and (limit := in_process(LIMIT_ACTORS, LIMIT_ACTORS, options.limit, 0.0)):
        found.append(limit)
        print(
            f"\nWithout sleep, {LIMIT_ACTORS} actors: {limit.rate / IMAGES:.0f} shards/s on these "
            f"{os.cpu_count()} cores (load {limit.load:.1f}); CPU ms a shard:"
            f" driver {limit.cpu_driver:.1f}, servers {limit.cpu_servers:.1f}, "
            f"actor {limit.cpu_workers:.1f}.\n"
            f"One core of the driver takes {1000 / limit.cpu_driver:.0f} shards/s: "
            f"at {options.seconds:g} s a shard, {options.seconds * 1000 / limit.cpu_driver:.0f} GPUs."
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([asdict(m) for m in found], file, indent=1)
    return 0


def judge(measured: Measured) -> None:
    quiet = measured.load < (os.cpu_count() or 1)
    verdict = (
        "reached"
        if measured.share >= TARGET
        else "MISSED"
        if quiet
        else "not judged, other programs keep the machine busy"
    )
    print(f"        target at {JUDGED}: {TARGET:.0%} of ideal: {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

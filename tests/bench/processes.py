"""CPU time and memory of a driver with all that it started, by /proc: the driver, Ray's servers, and
workers."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def every_process() -> tuple[dict[int, int], dict[int, float]]:
    """Process id -> parent, and process id -> CPU seconds so far, of all processes."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(file.parent.name)
        parents[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    return parents, used


def family() -> dict[int, tuple[str, float]]:
    """This process and its descendants: process id -> ('driver', 'workers' or 'servers', CPU seconds so
    far)."""
    parents, used = every_process()
    found = {os.getpid(): ("driver", used[os.getpid()])}
    todo = [os.getpid()]
    while todo:
        parent = todo.pop()
        for pid in (p for p, q in parents.items() if q == parent):
            found[pid] = ("workers" if is_actor(pid) else "servers", used[pid])
            todo.append(pid)
    return found


def cpu() -> Counter[str]:
    """CPU seconds so far of 'driver', 'workers' (the pool's actors) and 'servers' (raylet, GCS, agents, other
    workers)."""
    total: Counter[str] = Counter()
    for kind, seconds in family().values():
        total[kind] += seconds
    return total


def is_actor(pid: int) -> bool:
    """Whether the process is an actor of a pool, by the title that Ray gives it."""
    try:
        return b"ShardActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def worker_pss(sample: int = 8) -> float:
    """Mean proportional set size of pool actors in MiB, over ``sample`` of them: shared pages count once for
    all who share them."""
    sizes = []
    for pid in [p for p, (kind, _) in family().items() if kind == "workers"][:sample]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes += [int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")]
    return statistics.mean(sizes) if sizes else float("nan")

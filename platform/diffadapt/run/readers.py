"""How many threads prepare images beside a device: decoding, resizing and augmenting take several cores of a
machine for every GPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST = 16
"""More readers than this gain nothing, and hold what they have prepared."""
DEVICES, QUOTA = Path("/dev"), Path("/sys/fs/cgroup/cpu.max")


def readers_for(device: str, threads: int) -> int:
    """Readers of one worker. On a GPU: the machine's cores by its GPUs, or ``threads`` where that is more. On
    a CPU: the worker's threads (0: as many as there are cores), and none where it has but one, which a
    reader would take from the work itself."""
    if device != "cpu":
        return min(MOST, max(threads, cores() // max(1, gpus()), 1))
    own = threads or _given() or cores()
    return min(MOST, own) if own > 1 else 0


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(found, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return found


def gpus() -> int:
    """NVIDIA GPUs of this machine or container, by their device files: a worker is shown its own alone."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in DEVICES.glob("nvidia*"))


def _given() -> int:
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(named) if named.isascii() and named.isdigit() else 0

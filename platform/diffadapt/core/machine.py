"""What this machine or container has, without torch: cores and device files."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEVICES, QUOTA = Path("/dev"), Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Cores that this process may use, at least 1: its affinity, and the quota of its container."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(found, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return max(1, found)


def nvidia_gpus() -> int:
    """NVIDIA GPUs, by their device files, whatever of them is shown to this process."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in DEVICES.glob("nvidia*"))

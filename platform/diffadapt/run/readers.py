"""How many threads prepare images beside a device: decoding, resizing and augmenting take several cores of a
machine for every GPU."""

from __future__ import annotations

import os

from diffadapt.core.machine import cores, nvidia_gpus

MOST = 16
"""More readers than this gain nothing, and hold what they have prepared."""


def readers_for(device: str, threads: int) -> int:
    """Readers of one worker. On a GPU: the machine's cores by its GPUs, or ``threads`` where that is more. On
    a CPU: the worker's threads (0: as many as there are cores), and none where it has but one, which a
    reader would take from the work itself."""
    if device != "cpu":
        return min(MOST, max(threads, cores() // max(1, nvidia_gpus()), 1))
    own = threads or _given() or cores()
    return min(MOST, own) if own > 1 else 0


def _given() -> int:
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(named) if named.isascii() and named.isdigit() else 0

"""Which runner ``--execution.runner auto`` is: known before anything is started, without torch or Ray.

Measured on two cores: a start and an end of Ray cost 11 seconds of a core, and every pool of actors loads its
models anew, so a machine by itself is faster with processes of its own (:mod:`~diffadapt.run.local_pool`).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from diffadapt.core import machine
from diffadapt.run.runner import ExecutionConfig


@dataclass(frozen=True)
class Choice:
    """``runner``: local or ray; ``workers``: processes of a local run; ``why``: a part of a sentence."""

    runner: str
    workers: int
    why: str

    def __str__(self) -> str:
        if self.runner == "ray":
            return f"on Ray ({self.why})"
        what = "in one local process" if self.workers == 1 else f"in {self.workers} local processes"
        return f"{what} ({self.why})"


def choose(config: ExecutionConfig) -> Choice:
    """An explicit runner is taken; ``auto`` is Ray where a cluster is named, where there are several GPUs (or
    shares of one) and where fits have several workers each, if Ray is installed. Otherwise it is local: one
    process with a GPU, else one a core."""
    if config.runner == "local":
        return Choice("local", max(1, config.actors), "--execution.runner local")
    if config.runner == "ray":
        return Choice("ray", 0, "--execution.runner ray")
    gpus = 0 if config.device == "cpu" else gpu_count()
    why = _ray_wins(config, gpus)
    if why and has_ray():
        return Choice("ray", 0, why)
    why = f"{why}, but Ray is not installed" if why else "one machine, which Ray would not make faster"
    if gpus:
        return Choice("local", max(1, config.actors), why)
    return Choice("local", config.actors or max(1, machine.cores() // max(1, config.threads)), why)


def _ray_wins(config: ExecutionConfig, gpus: int) -> str:
    if config.address or os.environ.get("RAY_ADDRESS"):
        return "a cluster is named"
    if config.train_workers > 1:
        return f"fits on {config.train_workers} workers"
    if gpus > 1:
        return f"{gpus} GPUs"
    if gpus and config.gpus_per_actor < 1:
        return "several workers on one GPU"
    return ""


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def gpu_count() -> int:
    """GPUs that CUDA (or ROCm) would show to this process, by the device files; 1 where only their kind is
    known."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and shown.strip() in ("", "-1", "NoDevFiles"):
        return 0
    found = machine.nvidia_gpus()
    if not found and any((machine.DEVICES / name).exists() for name in ("kfd", "dxg")):
        found = 1
    return min(found, len(shown.split(","))) if shown else found

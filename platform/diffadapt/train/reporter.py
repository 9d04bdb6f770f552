"""What a training loop needs to know about where it runs: rank, device, wrapping, and where its numbers
go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from diffadapt.train.trackers.base import Trackers

OnReport = Callable[[int, int, dict[str, float]], None]


PROGRESS_SECONDS = 0.5


def throttled(tell: OnReport) -> OnReport:
    """``tell`` at most every PROGRESS_SECONDS, for news that goes to another process; the last step and every
    objective, which a scheduler waits for, are always told."""
    last = 0.0

    def on_report(step: int, total: int, scalars: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if step == total or "objective" in scalars or now - last >= PROGRESS_SECONDS:
            last = now
            tell(step, total, {k: float(v) for k, v in scalars.items()})

    return on_report


@runtime_checkable
class Reporter(Protocol):
    """The loop's side of a process group; every rank calls the same methods in the same order."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on the device, in DistributedDataParallel if world_size > 1.

        A module whose attribute ``find_unused_parameters`` is true may leave weights without a gradient in a
        pass.
        """
        ...

    def report(self, step: int, total: int, scalars: Mapping[str, float]) -> None:
        """Numbers after ``step`` of ``total`` finished steps, already averaged over ranks."""
        ...

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures (uint8, height x width x 3) of what the network makes after ``step`` finished steps."""
        ...

    def all_reduce_mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over ranks of each value (the same keys on every rank); NaN on one rank gives NaN on
        all."""
        ...

    def barrier(self) -> None: ...


class LocalReporter:
    """One process on one device. ``log_dir``: trackers, or a folder for TensorBoard's files; ``on_report``
    sees every report."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        device: str | torch.device = "cpu",
        log_dir: str | Trackers | None = None,
        on_report: OnReport | None = None,
    ):
        self.device = torch.device(device)
        self._trackers = (
            Trackers(["tensorboard"], "", "fit", log_dir) if isinstance(log_dir, str) else log_dir
        )
        self._on_report = on_report

    def wrap(self, module: nn.Module) -> nn.Module:
        return module.to(self.device)

    def report(self, step: int, total: int, scalars: Mapping[str, float]) -> None:
        if self._trackers is not None:
            self._trackers.scalars(step, scalars)
        if self._on_report is not None:
            self._on_report(step, total, dict(scalars))

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        if self._trackers is not None:
            self._trackers.figures(step, pictures)

    def all_reduce_mean(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def barrier(self) -> None:
        return None


class DistributedReporter(LocalReporter):
    """One rank of an initialised ``torch.distributed`` process group (gloo or nccl); rank 0 alone writes and
    reports.

    Batch norm uses each rank's own statistics and rank 0's running averages, as DistributedDataParallel does;
    ``sync_batch_norm`` converts them to statistics over the global batch (CUDA only).
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        log_dir: str | Trackers | None = None,
        on_report: OnReport | None = None,
        sync_batch_norm: bool = False,
    ):
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        first = self.rank == 0
        super().__init__(device, log_dir if first else None, on_report if first else None)
        self._sync_batch_norm = sync_batch_norm

    def wrap(self, module: nn.Module) -> nn.Module:
        module = module.to(self.device)
        if self.world_size == 1:
            return module
        if self._sync_batch_norm:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        ids = [self.device] if self.device.type == "cuda" else None
        unused = bool(getattr(module, "find_unused_parameters", False))
        return nn.parallel.DistributedDataParallel(
            module, device_ids=ids, find_unused_parameters=unused, gradient_as_bucket_view=True
        )

    def all_reduce_mean(self, values: Mapping[str, float]) -> dict[str, float]:
        names = sorted(values)
        packed = torch.tensor([values[n] for n in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(packed)
        return dict(zip(names, (packed / self.world_size).tolist(), strict=True))

    def barrier(self) -> None:
        dist.barrier()

"""What a runner must do. The local one needs no Ray; the one in orchestrate spreads the same work over a
cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.artifact import Receipt
from diffadapt.core.config import execution
from diffadapt.core.ranges import Fraction, Matching, Natural, NonNegative, Positive
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store

OnReceipt = Callable[[Receipt], None]
OnFitProgress = Callable[[str, int, int, Mapping[str, float]], None]
"""(node, step, total steps, scalars)"""


@dataclass(frozen=True)
class ExecutionConfig:
    """Where and how fast the work is done. None of these fields changes what is made."""

    runner: Literal["auto", "local", "ray"] = execution("auto")
    """auto: Ray if it is installed, else local."""
    address: str | None = execution(None)
    """Ray address; None: the job's cluster or RAY_ADDRESS if set, else a small Ray of its own."""
    device: Annotated[str, Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu or cuda")] = execution("auto")
    """auto, cpu, cuda. On Ray: whether actors ask for GPUs."""
    actors: Natural = execution(0)
    """Actors of the synthesis and alignment pool; 0: one a GPU, or one a CPU core when there is none."""
    gpus_per_actor: NonNegative = execution(1.0)
    train_workers: Positive = execution(1)
    """Data-parallel workers of each fit (Ray Train, DDP)."""
    max_failed_fraction: Fraction = execution(0.05)
    """A stage fails when a larger fraction of its items than this is quarantined."""
    threads: Natural = execution(0)
    """CPU threads of each worker process; 0: one on Ray; locally OMP_NUM_THREADS or all cores."""
    object_store_mb: Positive = execution(200)
    """Object store of a Ray that is started here."""
    resident_models: Positive = execution(8)
    """Loaded models that one worker process keeps."""


class Runner(ABC):
    """Carries out waves of work. Receipts and progress arrive in the driver's process."""

    name: str

    def prepare(self) -> None:
        """Check that the request can be met (ResourceError within seconds, never a hang) and start what is
        needed."""

    def existing(self, shards: Mapping[str, int]) -> None:
        """Told once, after :meth:`prepare`, what the store had before: node -> shards."""

    @abstractmethod
    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        """Make every shard of ``chains``; a receipt for each shard, in any order."""

    @abstractmethod
    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        """Carry out independent fits. ``log_dir`` is an fsspec URL for TensorBoard logs, one folder a
        node."""

    def close(self) -> None:
        """End what :meth:`prepare` started."""

"""What a runner must do. The local one needs no Ray; the one in orchestrate spreads the same work over a
cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

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
    """auto: Ray where a cluster is named, for several GPUs and for fits on several workers, else local."""
    address: str | None = execution(None)
    """Ray address; None: the job's cluster or RAY_ADDRESS if set, else a small Ray of its own."""
    device: Annotated[str, Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu or cuda")] = execution("auto")
    """auto, cpu, cuda. On Ray: whether actors ask for GPUs."""
    actors: Natural = execution(0)
    """Actors of the synthesis and alignment pool; 0: one a GPU, or one a CPU core when there is none. Of the
    local runner: its worker processes; 0: one process, with --execution.runner auto one a core."""
    gpus_per_actor: NonNegative = execution(1.0)
    train_workers: Positive = execution(1)
    """Data-parallel workers of each fit (Ray Train, DDP)."""
    max_failed_fraction: Fraction = execution(0.05)
    """A stage fails when a larger fraction of its items than this is quarantined."""
    threads: Natural = execution(0)
    """CPU threads of each worker process; 0: one; in a single local process OMP_NUM_THREADS or all cores."""
    object_store_mb: Positive = execution(200)
    """Object store of a Ray that is started here."""
    resident_models: Positive = execution(8)
    """Loaded models that one worker process keeps."""
    trackers: tuple[str, ...] = execution(("tensorboard",))
    """Where numbers of fits and scores go: tensorboard, mlflow, wandb, or a file of a folder that
    DIFFADAPT_TRACKERS names."""


class Feed(Protocol):
    """Work for a runner that does chains and fits at once. What is given once is not given again, so a runner
    keeps what it could not carry out."""

    def chains(self) -> Sequence[Chain]:
        """All chains that have become possible since the last call."""
        ...

    def fit(self) -> Task | None:
        """A fit whose inputs are there; None where there is none now."""
        ...

    def fits_to_come(self) -> int:
        """How many fits are not finished."""
        ...


class Runner:
    """Carries out waves of work. Receipts and progress arrive in the driver's process."""

    name: str
    together: ClassVar[bool] = False
    """Whether it works on chains and fits at once, by :meth:`run_feed`."""

    def prepare(self) -> None:
        """Check that the request can be met (ResourceError within seconds, never a hang) and start what is
        needed."""

    def existing(self, shards: Mapping[str, int]) -> None:
        """Told once, after :meth:`prepare`, what the store had before: node -> shards."""

    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        """Make every shard of ``chains``; a receipt for each shard, in any order."""
        raise NotImplementedError

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
        raise NotImplementedError

    def run_feed(
        self,
        feed: Feed,
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        """Carry out what ``feed`` gives until it gives nothing while nothing is at work; a receipt may make
        more possible."""
        raise NotImplementedError

    def close(self) -> None:
        """End what :meth:`prepare` started."""

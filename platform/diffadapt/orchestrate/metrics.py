"""What Prometheus is told of a run or a sweep: images, shards, seconds and trials, through Ray's own metrics.

Ray exports each as ``ray_<name>`` at every node's metrics port. The driver (a trial's process, for what the
trial makes) records, once for each receipt, so a shard that was made again after its worker was lost counts
once, and the last ones are not lost with an actor that ends. Recording never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import ray

from diffadapt.core.artifact import Receipt
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.run.runner import OnFitProgress, OnReceipt, Runner

if TYPE_CHECKING:
    from diffadapt.run.sweep import OnResult
    from diffadapt.sweeps.result import TrialResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """One metric: its name (exported with ``ray_`` in front), what it says, its labels."""

    name: str
    description: str
    labels: tuple[str, ...]
    kind: Literal["counter", "histogram"] = "counter"
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets; none: :data:`BOUNDARIES`."""


IMAGES = Series("diffadapt_images_total", "Images (or other rows) made, by stage.", ("stage",))
SHARDS = Series(
    "diffadapt_shards_total",
    "Shards and fits by stage and status: made, hit (served from the store) or failed.",
    ("stage", "status"),
)
QUARANTINED = Series(
    "diffadapt_quarantined_total", "Items that could not be made and were set apart, by stage.", ("stage",)
)
SECONDS = Series(
    "diffadapt_shard_seconds",
    "Wall seconds of making one shard or fit, by stage and device.",
    ("stage", "device"),
    "histogram",
)
"""For quantiles; Ray adds a bucket's middle to its sum, so that exact sums are those of
:data:`DEVICE_SECONDS`."""
DEVICE_SECONDS = Series(
    "diffadapt_device_seconds_total",
    "Seconds of work times devices working, by stage and device.",
    ("stage", "device"),
)
TRIALS = Series(
    "diffadapt_trials_total", "Trials of sweeps by status: finished, failed, stopped.", ("status",)
)
REQUESTS = Series("diffadapt_served_requests_total", "Requests for predictions, by HTTP status.", ("status",))
ANSWERS = Series(
    "diffadapt_served_images_total",
    "Images of requests by status: answered, or refused as unreadable.",
    ("status",),
)
LATENCY = Series(
    "diffadapt_served_seconds",
    "Wall seconds of one request for predictions.",
    (),
    "histogram",
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
BATCH = Series(
    "diffadapt_served_batch_images",
    "Images that a replica predicts at a time.",
    (),
    "histogram",
    (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
)
ALL = (IMAGES, SHARDS, QUARANTINED, SECONDS, DEVICE_SECONDS, TRIALS, REQUESTS, ANSWERS, LATENCY, BATCH)

BOUNDARIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0]
"""Upper bounds of the histogram's buckets in seconds."""


def counted(on_receipt: OnReceipt) -> OnReceipt:
    """``on_receipt`` with every receipt recorded first."""

    def receive(receipt: Receipt) -> None:
        record(receipt)
        on_receipt(receipt)

    return receive


def record(receipt: Receipt) -> None:
    """Record one receipt of a shard or fit."""
    stage = stage_label(receipt.node)
    _safely(SHARDS, 1, {"stage": stage, "status": receipt.status})
    if receipt.status == "made":
        _safely(IMAGES, receipt.items, {"stage": stage})
        _safely(QUARANTINED, len(receipt.failures), {"stage": stage})
        labels = {"stage": stage, "device": receipt.device or "unknown"}
        _safely(SECONDS, receipt.seconds, labels)
        _safely(DEVICE_SECONDS, receipt.seconds * receipt.devices, labels)


def existing(shards: Mapping[str, int]) -> None:
    """Record what was finished in the store before: node -> shards."""
    for node, count in shards.items():
        _safely(SHARDS, count, {"stage": stage_label(node), "status": "hit"})


def trial_ended(status: str) -> None:
    """Record the end of one trial with its status."""
    _safely(TRIALS, 1, {"status": status})


def served(status: int, seconds: float, answered: int, refused: int) -> None:
    """Record one request for predictions."""
    _safely(REQUESTS, 1, {"status": str(status)})
    _safely(ANSWERS, answered, {"status": "answered"})
    _safely(ANSWERS, refused, {"status": "refused"})
    _safely(LATENCY, seconds, {})


def served_batch(images: int) -> None:
    """Record what a replica predicts at a time."""
    _safely(BATCH, images, {})


def counted_trials(on_result: OnResult) -> OnResult:
    """``on_result`` with the end of every trial recorded first."""

    def receive(result: TrialResult) -> None:
        trial_ended(result.status)
        on_result(result)

    return receive


class CountedRunner(Runner):
    """A runner without Ray inside a Ray worker (a trial's), with every receipt recorded."""

    def __init__(self, inner: Runner):
        self.inner, self.name = inner, inner.name
        self.prepare, self.close = inner.prepare, inner.close

    def existing(self, shards: Mapping[str, int]) -> None:
        existing(shards)

    def run_chains(
        self, chains: Sequence[Chain], stages: Mapping[str, Stage], store: Store, on_receipt: OnReceipt
    ) -> None:
        self.inner.run_chains(chains, stages, store, counted(on_receipt))

    def run_fits(
        self,
        fits: Sequence[Task],
        stages: Mapping[str, Stage],
        store: Store,
        log_dir: str,
        on_receipt: OnReceipt,
        on_progress: OnFitProgress,
    ) -> None:
        self.inner.run_fits(fits, stages, store, log_dir, counted(on_receipt), on_progress)


def stage_label(node: str) -> str:
    """A node's name without its transfer, seed or family (all from the first '.' or '@'), so that labels stay
    few."""
    return node.partition(".")[0].partition("@")[0]


def _safely(series: Series, value: float, labels: Mapping[str, str]) -> None:
    """Record unless there is nothing to record or no Ray to tell; a failure is noted at debug level only."""
    if value <= 0:
        return
    try:
        if ray.is_initialized():
            _recorder(series)(value, dict(labels))
    except Exception:
        log.debug("The metric %s could not be recorded.", series.name, exc_info=True)


@cache
def _recorder(series: Series) -> Callable[[float, dict[str, str]], Any]:
    """Ray's metric of this process; it outlives a connection."""
    from ray.util.metrics import Counter, Histogram

    if series.kind == "histogram":
        return Histogram(
            series.name, series.description, list(series.bounds) or BOUNDARIES, series.labels
        ).observe
    return Counter(series.name, series.description, series.labels).inc

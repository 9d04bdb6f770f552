"""Toy stages for tests of runners: torch-free map stages that log each start, and a small fit.

Every stage appends a line to ``side_log`` when it starts a shard, which tells a test how often a shard was
begun.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from diffadapt.core.artifact import Input, Rows, Shard
from diffadapt.core.config import execution
from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.stage import FitJob, NodePlan, Stage, WorkContext, whole


def note(side_log: str, *words: object) -> None:
    """Append one line; a single write of a short line to an append-only file is atomic."""
    if side_log:
        with open(side_log, "ab", buffering=0) as handle:
            handle.write((" ".join(map(str, words)) + "\n").encode())


def lines(side_log: str | Path) -> list[list[str]]:
    path = Path(side_log)
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Source(Stage):
    """``shards`` shards of ``rows`` hashes each; can end its process, once or always, or fail at one
    shard."""

    kind: ClassVar[str] = "toy-source"
    shards: int = 6
    rows: int = 3
    sleep: float = execution(0.0)
    side_log: str = execution("")
    die_once: str = execution("")
    """Key of the shard that kills its process the first time."""
    die_always: str = execution("")
    fail: str = execution("")
    stand: str = execution("")
    """Key of the shard at which the process stands still, its threads alive, the first time."""
    slow: str = execution("")
    """Key of the shard that takes ``slow_seconds``, and gets on all the time."""
    slow_seconds: float = execution(0.0)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard(f"s{i:04d}", {"index": i}, (), self.rows) for i in range(self.shards)]

    def open(self, context: WorkContext) -> SourceWorker:
        return SourceWorker(self)


class SourceWorker:
    def __init__(self, stage: Source):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        note(self.stage.side_log, "source", shard.key, os.getpid(), time.time())
        time.sleep(self.stage.sleep)
        if shard.key == self.stage.die_always:
            os._exit(1)
        if shard.key == self.stage.die_once and _first_time(self.stage.side_log + ".died"):
            os.kill(os.getpid(), signal.SIGKILL)
        if shard.key == self.stage.stand and _first_time(self.stage.side_log + ".stood"):
            threading.Event().wait()
        end = time.monotonic() + (self.stage.slow_seconds if shard.key == self.stage.slow else 0.0)
        batch = 0
        while time.monotonic() < end:
            time.sleep(0.01)
            batch += 1
        if shard.key == self.stage.fail:
            raise DataError(f"The shard {shard.key} cannot be made: it is told to fail.")
        keys = [f"{shard.key}/{i}" for i in range(self.stage.rows)]
        return Rows(pa.table({"key": keys, "value": [hashlib.sha256(k.encode()).hexdigest() for k in keys]}))


@dataclass(frozen=True)
class Child(Stage):
    """One shard for each shard of its parent: the parent's values hashed once more."""

    kind: ClassVar[str] = "toy-child"
    sleep: float = execution(0.0)
    side_log: str = execution("")

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        (parent,) = inputs.values()
        return [Shard(p.shard.key, {}, (Input(parent.name, p.digest),), p.shard.items) for p in parent.shards]

    def open(self, context: WorkContext) -> ChildWorker:
        return ChildWorker(self)


class ChildWorker:
    def __init__(self, stage: Child):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        note(self.stage.side_log, "child", shard.key, os.getpid(), time.time())
        time.sleep(self.stage.sleep)
        values = [hashlib.sha256(v.encode()).hexdigest() for v in inputs[0].column("value")]
        return Rows(pa.table({"key": inputs[0].column("key"), "value": values}))


@dataclass(frozen=True)
class Regress(Stage):
    """Fits a small network to its inputs with the project's loop; rank ``die_rank`` kills itself once at
    ``die_step``."""

    kind: ClassVar[str] = "toy-regress"
    fit_stage: ClassVar[bool] = True
    steps: int = 30
    name: str = "a"
    sleep: float = execution(0.0)
    side_log: str = execution("")
    die_step: int = execution(0)
    die_rank: int = execution(0)
    fail_rank: int = execution(-1)
    where: str = execution("gpu")

    def resources(self) -> str:
        return self.where

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        import torch

        from diffadapt.train.checkpoints import Checkpoints
        from diffadapt.train.loop import Optimisation, run_loop
        from diffadapt.train.run import TrainingRun

        rank = job.reporter.rank
        note(self.side_log, "place", os.getcwd())
        if rank == self.fail_rank:
            raise DataError(f"Rank {rank} of {job.node} is told to fail.")
        files = [f for node in sorted({f.node for f in job.inputs("source")}) for f in job.inputs(node)]
        text = "".join(v for f in files for v in job.read(f).column("value"))
        data = torch.tensor([float(int(c, 16)) for c in text[:512]]).reshape(-1, 8) / 16
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        if not torch.cuda.is_available():  # nodes of the tests pretend to have GPUs
            job.reporter.device = torch.device("cpu")
        module.to(job.reporter.device)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)

        def batch(step: int, micro: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(step * 1000 + rank)
            return data[torch.randint(len(data), (8,), generator=generator)].to(job.reporter.device)

        def loss(net: Any, rows: Any, step: int) -> dict[str, Any]:
            time.sleep(self.sleep)
            return {"loss": ((net(rows[:, :7]) - rows[:, 7:]) ** 2).mean()}

        def after(finished: int, scalars: dict[str, float]) -> None:
            note(self.side_log, "step", job.node, rank, finished, os.getpid())
            if finished == self.die_step and rank == self.die_rank and _first_time(self.side_log + ".died"):
                os.kill(os.getpid(), signal.SIGKILL)

        metrics = run_loop(
            module,
            loss,
            batch,
            Optimisation(optimizer, lambda s: 0.05, self.steps, checkpoint_every=5),
            TrainingRun(job.reporter, Checkpoints(job.checkpoints), on_step=after),
        )
        if rank == 0:
            note(self.side_log, "resumed", job.node, int(metrics["resumed_from"]))
            values = torch.cat([p.detach().cpu().flatten() for p in module.parameters()])
            Path(job.output, "weights.txt").write_text("\n".join(float(v).hex() for v in values))
        return {"steps": metrics["steps"]}


def _first_time(marker: str) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def map_pipeline(source: Source, child: Child | None = None) -> Pipeline:
    nodes = [Node("source", source)]
    if child is not None:
        nodes.append(Node("child", child, ("source",)))
    return Pipeline(tuple(nodes))


def fit_pipeline(source: Source, *fits: Regress) -> Pipeline:
    nodes = [Node("source", source)] + [Node(f"fit-{i}", fit, ("source",)) for i, fit in enumerate(fits)]
    return Pipeline(tuple(nodes))

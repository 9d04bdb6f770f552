"""A recipe without torch for tests of searches: pictures, a fit that tells its score after each epoch,
answers on a target.

Troubles are told by execution fields and by files in ``folder``: which fits end their process or find too
little memory.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, Shard
from diffadapt.core.config import execution
from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.stage import FitJob, NodePlan, Stage, WorkContext, whole
from diffadapt.run.executor import Executor
from diffadapt.run.fit import run_fit
from diffadapt.run.runner import ExecutionConfig, Runner
from tests.ray.toy import note

PER_SHARD = 10


@dataclass(frozen=True)
class Draw(Stage):
    """``images`` pictures, ten a shard; more of them are the same ones and others."""

    kind: ClassVar[str] = "draw"
    images: int = 20
    guidance: float = 1.0
    side_log: str = execution("")

    def identity(self) -> dict[str, Any]:
        return {"guidance": self.guidance}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard(f"s{i:03d}", {"index": i}, (), PER_SHARD) for i in range(self.images // PER_SHARD)]

    def open(self, context: WorkContext) -> _Draw:
        return _Draw(self)


class _Draw:
    def __init__(self, stage: Draw):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        note(self.stage.side_log, "draw", self.stage.guidance, shard.key)
        keys = [f"{shard.key}/{i}" for i in range(PER_SHARD)]
        return Rows(pa.table({"key": keys, "value": [self.stage.guidance] * PER_SHARD}))


@dataclass(frozen=True)
class LearnConfig:
    """A training whose score comes close to ``1 - |lr - 0.5|`` with the epochs."""

    lr: float = 0.5
    threshold: float = 0.5
    batch_size: int = 64
    epochs: int = 3
    sleep: float = execution(0.0)
    memory: int = execution(0)
    """The largest batch that fits; 0: any."""
    die: str = execution("")
    """'once' or 'always': a fit with the threshold ``of`` ends its process in its first epoch."""
    of: float = execution(-1.0)
    folder: str = execution("")


@dataclass(frozen=True)
class Select:
    rule: str = "last"
    watch: str = execution("")


@dataclass(frozen=True)
class Learn(Stage):
    kind: ClassVar[str] = "learn"
    fit_stage: ClassVar[bool] = True
    config: LearnConfig = LearnConfig()
    select: Select = Select()

    def resources(self) -> str:
        return "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        c = self.config
        log = c.folder and f"{c.folder}/log"
        note(log, "fit", c.lr, c.threshold, c.batch_size)
        if c.lr < 0:
            raise DataError("The rate is below nothing: it is told to fail.")
        if c.memory and c.batch_size > c.memory:
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {c.batch_size} MiB.")
        images = sum(len(job.read(f)) for f in job.every_input())
        for epoch in range(_begun(job) + 1, c.epochs + 1):
            if c.die and c.threshold == c.of and (c.die == "always" or _first(f"{c.folder}/died")):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(c.sleep)
            note(log, "epoch", c.lr, c.threshold, epoch)
            told = (
                {"objective": self.score(epoch), "objective_epoch": float(epoch)} if self.select.watch else {}
            )
            if told:
                Path(job.checkpoints).mkdir(parents=True, exist_ok=True)
                Path(job.checkpoints, "epoch").write_text(str(epoch))
            job.reporter.report(epoch, c.epochs, {"loss": 1 / epoch, **told})
        Path(job.output, "score.json").write_text(json.dumps(self.score(c.epochs)))
        return {"images": images}

    def score(self, epoch: int) -> float:
        return (1 - abs(self.config.lr - 0.5)) * (1 - 0.5**epoch)


def _begun(job: FitJob) -> int:
    """The epochs that an earlier try has finished."""
    file = Path(job.checkpoints, "epoch")
    return int(file.read_text()) if file.exists() else 0


def _first(marker: str) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


@dataclass(frozen=True)
class Answer(Stage):
    """Logits of 40 images with two classes, sharper and more often right the better the score."""

    kind: ClassVar[str] = "answer"
    labels: bool = True

    def resources(self) -> str:
        return "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        (learnt,) = inputs.values()
        return [Shard("all", {}, (learnt.as_input(),), 40)]

    def open(self, context: WorkContext) -> _Answer:
        return _Answer(self, json.loads(Path(context.fitted["learn"], "score.json").read_text()))


class _Answer:
    def __init__(self, stage: Answer, score: float):
        self.stage, self.score = stage, score

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        draws = np.random.default_rng(0).random(40)
        labels = [i % 2 for i in range(40)]
        answers = [y if u < self.score else 1 - y for y, u in zip(labels, draws, strict=True)]
        logits = [[8 * self.score * (a == 0), 8 * self.score * (a == 1)] for a in answers]
        known = labels if self.stage.labels else [None] * 40
        return Rows(
            pa.table(
                {"key": [f"t/{i}" for i in range(40)], "label": known, "logits": logits}, schema=LOGITS_SCHEMA
            )
        )


@dataclass(frozen=True)
class SweepToy:
    """draw -> learn -> answer."""

    draw: Draw = Draw()
    learn: LearnConfig = LearnConfig()
    answer: Answer = Answer()
    select: Select = Select()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(device="cpu")

    def pipeline(self) -> Pipeline:
        nodes = (
            Node("draw", self.draw),
            Node("learn", Learn(self.learn, self.select), ("draw",)),
            Node("answer", self.answer, ("learn",)),
        )
        return Pipeline(nodes, (MethodRow("Toy", ("answer",)),), ("a", "b"), {"predictions": "answer"})


@dataclass(frozen=True)
class PlainToy:
    """The same with nothing to watch."""

    draw: Draw = Draw()
    learn: LearnConfig = LearnConfig()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(device="cpu")

    def pipeline(self) -> Pipeline:
        return SweepToy(self.draw, self.learn).pipeline()


class ToyReporter:
    rank, world_size, device = 0, 1, "cpu"

    def __init__(self, on_report: Any):
        self.on_report = on_report

    def report(self, step: int, total: int, scalars: Mapping[str, float]) -> None:
        self.on_report(step, total, scalars)

    def barrier(self) -> None: ...


class ToyRunner(Runner):
    """In this process, without torch."""

    name = "toy"

    def __init__(self, config: ExecutionConfig | None = None):
        self.config = config

    def run_chains(self, chains, stages, store, on_receipt) -> None:
        executor = Executor(stages, store)
        for chain in chains:
            for task in chain.tasks:
                on_receipt(executor.run(task))

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        for task in fits:
            on_receipt(
                run_fit(
                    task, stages, store, ToyReporter(lambda *news, node=task.node: on_progress(node, *news))
                )
            )

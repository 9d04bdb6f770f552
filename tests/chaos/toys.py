"""A recipe without torch that leaves every kind of file: numbers -> doubled -> total (a fit) -> answers,
which need the total, and a fit with pictures, validators and decisions."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, Shard
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.stage import FitJob, NodePlan, Stage, WorkContext, one_to_one, whole
from diffadapt.run.runner import ExecutionConfig
from tests.unit.corekit import Double, Numbers, PlainRunner, Total

PAUSE = 0.03
"""Seconds that a shard takes, so that a kill at a moment of chance falls into the work, and twins meet."""


class ToyRunner(PlainRunner):
    """Shards and fits in this process; the command line takes it for the local runner."""

    name = "local"


@dataclass(frozen=True)
class Answers(Stage):
    """Logits of three classes for every number, another for every total."""

    kind: ClassVar[str] = "answers"
    spread: float = 1.0

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        numbers, *fitted = inputs.values()
        return one_to_one(numbers, fitted)

    def open(self, context: WorkContext) -> _Answers:
        return _Answers(self.spread, json.loads(Path(context.fitted["total"], "total.json").read_text()))


class _Answers:
    def __init__(self, spread: float, total: float):
        self.spread, self.total = spread, total

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        time.sleep(PAUSE)
        keys, values = inputs[0].column("key"), inputs[0].column("value")
        seeds = [
            int(hashlib.sha256(f"{k} {v} {self.total}".encode()).hexdigest()[:8], 16)
            for k, v in zip(keys, values, strict=True)
        ]
        logits = [(self.spread * np.random.default_rng(s).normal(size=3)).tolist() for s in seeds]
        labels = [int(hashlib.sha256(k.encode()).hexdigest()[:8], 16) % 3 for k in keys]
        return Rows(pa.table({"key": keys, "label": labels, "logits": logits}, schema=LOGITS_SCHEMA))


@dataclass(frozen=True)
class SlowTotal(Total):
    """The total, with files in folders too."""

    kind: ClassVar[str] = "slow-total"

    def fit(self, job: FitJob) -> dict[str, Any]:
        metrics = super().fit(job)
        time.sleep(10 * PAUSE)
        Path(job.output, "more").mkdir()
        Path(job.output, "more", "weights.bin").write_bytes(np.arange(500, dtype=np.int64).tobytes())
        return {**metrics, "warnings": ["The total is slow."]}


@dataclass(frozen=True)
class Drawings(Stage):
    """A picture, scores without labels, and decisions."""

    kind: ClassVar[str] = "drawings"
    fit_stage: ClassVar[bool] = True

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        rows = [r for f in job.every_input() for r in job.read(f).table.to_pylist()]
        mean = float(np.mean([r["logits"] for r in rows]))
        picture = io.BytesIO()
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(picture, "PNG")
        Path(job.output, "answers.png").write_bytes(picture.getvalue())
        Path(job.output, "answers.json").write_text(json.dumps({"mean": mean}))
        Path(job.output, "validators.json").write_text(json.dumps({"nodes": {"answers": {"entropy": mean}}}))
        Path(job.output, "decisions.json").write_text(json.dumps([[r["key"], "kept"] for r in rows]))
        return {"mean": mean}


@dataclass(frozen=True)
class ChaosToy:
    """The recipe type; two values that differ in ``answers`` or ``seed`` share numbers and total."""

    numbers: Numbers = Numbers(shards=4)
    double: Double = Double()
    answers: Answers = Answers()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(runner="local", device="cpu", max_failed_fraction=0.5)

    def pipeline(self) -> Pipeline:
        nodes = (
            Node("numbers", self.numbers),
            Node("double", self.double, ("numbers",)),
            Node("total", SlowTotal(), ("double",)),
            Node("answers", self.answers, ("numbers", "total")),
            Node("drawings", Drawings(), ("answers",)),
        )
        outputs = {
            "predictions": "answers",
            "figures": "drawings",
            "validators": "drawings",
            "quality": "drawings",
        }
        return Pipeline(nodes, (MethodRow("Toy", ("answers",)),), ("a", "b", "c"), outputs)

"""A recipe without torch for tests of sweeps: numbers, a total over them, and guesses at three classes that
depend on the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, Shard
from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import LocalFan, SweepRequest, run_sweep
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.space import Choice, Space
from tests.unit.corekit import Numbers, PlainRunner, Total


@dataclass(frozen=True)
class Guess(Stage):
    """Logits of three classes for every number, sharper with ``spread``; a ``mode`` of 'fail' cannot be
    made."""

    kind: ClassVar[str] = "guess"
    spread: float = 1.0
    mode: str = "plain"
    labels: bool = True

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        numbers, *fitted = inputs.values()
        return one_to_one(numbers, fitted)

    def open(self, context: WorkContext) -> _Guess:
        return _Guess(self)


class _Guess:
    def __init__(self, stage: Guess):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        if self.stage.mode == "fail":
            raise DataError("The guesses cannot be made: they are told to fail.")
        keys = inputs[0].column("key")
        seeds = [int(hashlib.sha256(k.encode()).hexdigest()[:8], 16) for k in keys]
        labels = [s % 3 if self.stage.labels else None for s in seeds]
        logits = [(self.stage.spread * np.random.default_rng(s).normal(size=3)).tolist() for s in seeds]
        return Rows(pa.table({"key": keys, "label": labels, "logits": logits}, schema=LOGITS_SCHEMA))


@dataclass(frozen=True)
class Guesses:
    """A recipe: numbers -> total (a fit) -> guesses."""

    numbers: Numbers = Numbers()
    guess: Guess = Guess()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(runner="local", device="cpu")

    def pipeline(self) -> Pipeline:
        nodes = (
            Node("numbers", self.numbers),
            Node("total", Total(), ("numbers",)),
            Node("guess", self.guess, ("numbers", "total")),
        )
        return Pipeline(nodes, (MethodRow("Toy", ("guess",)),), ("a", "b", "c"), {"predictions": "guess"})


SPACE = Space({"numbers.offset": Choice(0.0, 1.0), "guess.spread": Choice(0.5, 1.0, 2.0)})


def run_toy_sweep(
    root: Any,
    space: Space = SPACE,
    recipes: Mapping[str, Any] | None = None,
    runner: Callable[[Any], Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Sweep:
    """Carry out a sweep in this process under the name 'toy'; ``runner(execution)`` makes what there is to
    make."""
    runner = runner or (lambda execution: PlainRunner())
    recipes = recipes or {"guesses": Guesses()}
    return run_sweep(
        SweepRequest("toy", space, recipes),
        Root(str(root)),
        next(iter(recipes.values())).execution,
        runner,
        lambda execution: LocalFan(runner),
        say,
    )

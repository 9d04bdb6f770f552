"""Torch-free stages and a driver for tests of the core: a source of numbers, a stage on top of it, a fit over
everything."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows, Shard
from diffadapt.core.config import execution
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Root, Run
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.stage import FitJob, NodePlan, Stage, WorkContext, one_to_one, whole
from diffadapt.run.drive import drive
from diffadapt.run.executor import Executor
from diffadapt.run.fit import run_fit
from diffadapt.run.progress import Progress
from diffadapt.run.runner import ExecutionConfig, Runner


@dataclass(frozen=True)
class Numbers(Stage):
    """``shards`` shards of ``rows`` numbers; the keys listed in the file ``broken`` cannot be made."""

    kind: ClassVar[str] = "numbers"
    shards: int = 3
    rows: int = 4
    offset: float = 0.0
    broken: str = execution("")

    def identity(self) -> dict[str, Any]:
        return {"rows": self.rows, "offset": self.offset}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard(f"s{i:03d}", {"index": i}, (), self.rows) for i in range(self.shards)]

    def open(self, context: WorkContext) -> _Numbers:
        return _Numbers(self)


class _Numbers:
    def __init__(self, stage: Numbers):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        bad = Path(self.stage.broken).read_text().split() if self.stage.broken else []
        keys = [f"n/0/{shard.key}-{i}" for i in range(self.stage.rows)]
        good = [k for k in keys if k not in bad]
        return Rows(
            pa.table({"key": good, "value": [self.stage.offset + len(k) for k in good]}),
            [Failure(k, "broken") for k in keys if k in bad],
        )


@dataclass(frozen=True)
class Double(Stage):
    kind: ClassVar[str] = "double"
    factor: int = 2

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return one_to_one(next(iter(inputs.values())), list(inputs.values())[1:])

    def open(self, context: WorkContext) -> _Double:
        return _Double(self)


class _Double:
    def __init__(self, stage: Double):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        values = [self.stage.factor * v for v in inputs[0].column("value")]
        return Rows(pa.table({"key": inputs[0].column("key"), "value": values}), list(inputs[0].failures))


@dataclass(frozen=True)
class Total(Stage):
    """The sum over all rows of its inputs, as a file."""

    kind: ClassVar[str] = "total"
    fit_stage: ClassVar[bool] = True
    name: str = "a"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        rows = [job.read(f) for f in job.every_input() if not f.fitted]
        total = sum(sum(r.column("value")) for r in rows)
        Path(job.output, "total.json").write_text(json.dumps(total))
        return {"total": total, "quarantined": [[f.key, f.reason] for r in rows for f in r.failures]}


@dataclass(frozen=True)
class Shift(Double):
    """Adds the fitted total to every value."""

    kind: ClassVar[str] = "shift"

    def open(self, context: WorkContext) -> _Shift:
        return _Shift(context)


class _Shift:
    def __init__(self, context: WorkContext):
        self.total = json.loads(Path(context.fitted["total"], "total.json").read_text())

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        return Rows(
            pa.table(
                {"key": inputs[0].column("key"), "value": [v + self.total for v in inputs[0].column("value")]}
            )
        )


@dataclass(frozen=True)
class Toy:
    """A recipe of the three."""

    numbers: Numbers = Numbers()
    double: Double = Double()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(runner="local", device="cpu")

    def pipeline(self) -> Pipeline:
        return Pipeline(
            (
                Node("numbers", self.numbers),
                Node("double", self.double, ("numbers",)),
                Node("total", Total(), ("double",)),
            )
        )


@dataclass(frozen=True)
class Shifted(Toy):
    """The same and a stage that needs the fit."""

    def pipeline(self) -> Pipeline:
        nodes = super().pipeline().nodes
        return Pipeline((*nodes, Node("shift", Shift(), ("numbers", "total"))))


class PlainReporter:
    rank, world_size, device = 0, 1, "cpu"

    def barrier(self) -> None: ...


class PlainRunner(Runner):
    """In this process, one after the other, without torch. ``stop_after`` receipts it raises
    KeyboardInterrupt."""

    name = "plain"

    def __init__(self, stop_after: int | None = None, backwards: bool = False):
        self.stop_after, self.backwards, self.receipts = stop_after, backwards, []

    def _pass(self, receipt, on_receipt) -> None:
        self.receipts.append(receipt)
        on_receipt(receipt)
        if self.stop_after is not None and len(self.receipts) >= self.stop_after:
            raise KeyboardInterrupt

    def run_chains(self, chains, stages, store, on_receipt) -> None:
        executor = Executor(stages, store)
        for chain in reversed(chains) if self.backwards else chains:
            for task in chain.tasks:
                self._pass(executor.run(task), on_receipt)

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        for task in fits:
            self._pass(run_fit(task, stages, store, PlainReporter()), on_receipt)


def run_toy(
    root: Path | str, recipe: Toy | None = None, runner: PlainRunner | None = None, name: str = "toy"
) -> tuple[Run, PlainRunner]:
    """Drive a toy recipe; its runner keeps the receipts."""
    recipe, runner = recipe or Toy(), runner or PlainRunner()
    run = drive(
        name,
        recipe,
        recipe.pipeline(),
        Root(str(root)),
        lambda: runner,
        progress=Progress({}, stream=io.StringIO()),
    )
    return run, runner


def allowing(recipe: Toy, fraction: float) -> Toy:
    return replace(recipe, execution=replace(recipe.execution, max_failed_fraction=fraction))


def receipts_of(pipeline: Pipeline, store, runner: PlainRunner | None = None) -> list:
    """Receipts of making everything that is missing, without a run folder."""
    runner = runner or PlainRunner()
    plans = pipeline.plan(store)
    stages = {n: p.stage for n, p in plans.items()}
    while wave := next_wave(plans, finished(plans, store)):
        runner.run_chains(wave.chains, stages, store, lambda r: None)
        runner.run_fits(wave.fits, stages, store, "", lambda r: None, None)
        assert not [r for r in runner.receipts if r.status == "failed"], runner.receipts[-1].error
    return runner.receipts


def contents(root: Path | str) -> dict[str, bytes]:
    """Every file under ``root`` by relative name."""
    base = Path(root)
    return {p.relative_to(base).as_posix(): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}

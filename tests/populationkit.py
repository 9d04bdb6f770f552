"""A recipe of seconds that ends in a stage 2, for tests of population-based training: clusters instead of
images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from diffadapt.core.artifact import FEATURES_SCHEMA, Rows, Shard
from diffadapt.core.config import execution
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.stage import FitJob, NodePlan, Stage, WorkContext, whole
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.run.population import needed
from diffadapt.run.progress import NodeProgress
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import Search
from diffadapt.run.trial import Silent
from diffadapt.run.work import Work
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.space import Choice, SearchConfig, Space
from diffadapt.tasks.classification.fit_ssl import FitSsl
from diffadapt.tasks.classification.predict_head import PredictHead
from diffadapt.tasks.classification.split import Split
from tests.ray.toy import note
from tests.unit import sslkit

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Target(Stage):
    """The clusters as cached features."""

    kind: ClassVar[str] = "toy-target"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard("all", {"group": "t/0"}, (), 240)]

    def open(self, context: WorkContext) -> Target:
        return self

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        views = sslkit.clusters(seed=2)
        columns = {
            "key": list(views.keys),
            "label": views.labels,
            **{k: [v.ravel() for v in views.cached[k]] for k in ("test", "weak", "strong")},
        }
        return Rows(pa.table(columns, schema=FEATURES_SCHEMA))


@dataclass(frozen=True)
class Start(Stage):
    """Stage 1: a head that is right on most of the target."""

    kind: ClassVar[str] = "toy-start"
    fit_stage: ClassVar[bool] = True

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.models.mlp_head import save_head

        save_head(
            Path(job.output),
            sslkit.biased_head(sslkit.clusters(seed=2), seed=2, hidden=8),
            sslkit.WIDTH,
            NAMES,
            {"selection": "last"},
        )
        return {}


@dataclass(frozen=True)
class Noted(FitSsl):
    """Stage 2 that says when it begins and ends to train (trial, from step, to step); it may take ``pause``
    seconds first."""

    side_log: str = execution("")
    pause: float = execution(0.0)
    die_at: float = execution(0.0)
    """Learning rate that ends the process."""

    def fit(self, job: FitJob) -> dict[str, Any]:
        import time

        from diffadapt.train.checkpoints import Checkpoints

        steps = Checkpoints(job.checkpoints).steps()
        note(
            self.side_log,
            "begin",
            Path(job.checkpoints).parents[2].name,
            steps[-1] if steps else 0,
            job.until,
            os.getpid(),
        )
        time.sleep(self.pause)
        if self.config.lr == self.die_at:
            os._exit(1)
        found = super().fit(job)
        note(
            self.side_log,
            "end",
            Path(job.checkpoints).parents[2].name,
            steps[-1] if steps else 0,
            job.until,
            os.getpid(),
        )
        return found


@dataclass(frozen=True)
class Clusters:
    """The recipe."""

    ssl: Any = field(
        default_factory=lambda: sslkit.config(
            "fixmatch",
            threshold=0.9,
            ema=0.9,
            epochs=4,
            steps_per_epoch=10,
            batch_size=16,
            augment="shift",
            flip=False,
            checkpoint_every=4,
        )
    )
    select: SelectConfig = SelectConfig()
    side_log: str = execution("")
    pause: float = execution(0.0)
    die_at: float = execution(0.0)
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(device="cpu")

    def pipeline(self) -> Pipeline:
        frozen = BackboneConfig(name="train", arch="cifar_resnet8", frozen=True)
        nodes = (
            Node("target", Target()),
            Node("start", Start(), ("target",)),
            Node("start_on_target", PredictHead(4), ("target", "start")),
            Node("split", Split(SplitConfig(), 4, NAMES), ("start_on_target",)),
            Node(
                "adapted",
                Noted(
                    self.ssl,
                    frozen,
                    4,
                    NAMES,
                    self.select,
                    side_log=self.side_log,
                    pause=self.pause,
                    die_at=self.die_at,
                ),
                ("target", "split", "start"),
            ),
            Node("adapted_on_target", PredictHead(4), ("target", "adapted")),
        )
        return Pipeline(
            nodes,
            (MethodRow("start", ("start_on_target",)), MethodRow("adapted", ("adapted_on_target",))),
            NAMES,
            {"target": "target"},
        )


def space(trials: int = 4, seed: int = 0, objective: str = "im", **search: Any) -> Space:
    """Learning rates, of which one is hopeless."""
    settings = SearchConfig("random", trials, "pbt", objective=objective, seed=seed, **search)
    return Space({"ssl.lr": Choice(1e-6, 1e-3, 0.01, 0.05, 0.1)}, settings)


def search(root: Path | str, recipe: Clusters, varied: Space) -> Search:
    place = Root(str(root))
    for part in (place.store, place.sweeps):
        part.prepare()
    return Search(varied, {"clusters": recipe}, place, Sweep(place, "pbt"), recipe.execution)


def make_shared(found: Search) -> None:
    """Make what stands before the training, in this process."""
    from diffadapt.run.local import LocalRunner

    pipeline = found.recipes["clusters"].pipeline()
    plans = {n: p for n, p in pipeline.plan(found.root.store).items() if n in needed(pipeline, "adapted")}
    progress = Silent({n: NodeProgress(len(p.shards), p.items) for n, p in plans.items()})
    Work(found.sweep, found.root.store, plans, progress, 0.0).run(
        lambda: LocalRunner(ExecutionConfig(device="cpu", threads=1))
    )

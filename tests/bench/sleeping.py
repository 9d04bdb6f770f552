"""A generator that sleeps instead of computing: what is left of a run's time is ours and Ray's. Imports no
torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.config import execution
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.stage import NodePlan, Stage, WorkContext


@dataclass(frozen=True)
class Asleep(Stage):
    """``shards`` shards of ``images`` images of ``image_bytes`` bytes; each takes ``seconds`` of sleep."""

    kind: ClassVar[str] = "asleep"
    shards: int = 8
    images: int = 64
    image_bytes: int = 1024
    seconds: float = execution(15.0)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return [Shard(f"i{i:06d}", {"start": i, "stop": i + 1}, (), self.images) for i in range(self.shards)]

    def open(self, context: WorkContext) -> _Asleep:
        return _Asleep(self)


class _Asleep:
    def __init__(self, stage: Asleep):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        time.sleep(self.stage.seconds)
        keys = [f"synthetic/0/c{i:04d}/{shard.key}" for i in range(shard.items)]
        return Rows(
            image_table(
                keys, [0] * shard.items, [bytes(self.stage.image_bytes)] * shard.items, [0] * shard.items
            )
        )


def sleeping(stage: Asleep) -> Pipeline:
    return Pipeline((Node("asleep", stage),))

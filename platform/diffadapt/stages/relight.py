"""Relighting without diffusion: the control of a generator that has learnt a domain's look from relit
images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Rows, Shard, scene_table
from diffadapt.core.config import to_dict
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.data.scenes.relight import check_appearances
from diffadapt.data.scenes.table import ClassTable


@dataclass(frozen=True)
class RelightScenes(Stage):
    """Input: scenes with label maps. Rows as those of TransferScenes, every image accepted; the size of the
    source."""

    appearance: str = "dusk"
    classes: ClassTable = ClassTable()
    seed: int = 0

    kind = "transferred"

    def label(self) -> str:
        return f"relit-{self.appearance}"

    def identity(self) -> dict[str, Any]:
        return {
            "relight": self.appearance,
            "classes": to_dict(self.classes, identity_only=True),
            "seed": self.seed,
        }

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_appearances([self.appearance])
        (scenes,) = inputs.values()
        return one_to_one(scenes)

    def open(self, context: WorkContext) -> _Relighter:
        return _Relighter(self)

    def resources(self) -> str:
        return "cpu"


class _Relighter:
    def __init__(self, stage: RelightScenes):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np

        from diffadapt.data.image import encode_png
        from diffadapt.data.scenes.relight import relight
        from diffadapt.data.scenes.rows import decode_scenes, judged
        from diffadapt.diffusion.translation.quality import compare

        scenes, failures = decode_scenes(inputs[0])
        failures += [
            Failure(s.key, "it has no label map, by which it could be relit.")
            for s in scenes
            if s.annotation is None
        ]
        scenes = [s for s in scenes if s.annotation is not None]
        seeds = [
            item_seed(self.stage.seed, "scenes", s.key, f"relight/{self.stage.appearance}") for s in scenes
        ]
        lit = [
            relight(
                s.image,
                s.annotation,
                self.stage.classes.names,
                self.stage.appearance,
                np.random.default_rng(seed),
            )
            for s, seed in zip(scenes, seeds, strict=True)
        ]
        table = scene_table(
            [s.key for s in scenes],
            [encode_png(x) for x in lit],
            [encode_png(s.annotation) for s in scenes],
            seeds,
            objects=[s.objects for s in scenes],
        )
        scores = [
            json.dumps({**compare(s.image, x), "reasons": []}, sort_keys=True)
            for s, x in zip(scenes, lit, strict=True)
        ]
        count = len(scenes)
        return Rows(judged(table, [True] * count, [1] * count, [1.0] * count, scores), failures)

"""Synthesis stage: labelled images from a class-conditional diffusion model (SDA section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.diffusion.generators.base import generator_of
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.stages.calls import of_latents
from diffadapt.stages.image_grid import (
    GridWorker,
    blocks,
    grid_identity,
    grid_items,
    grid_label,
    grid_revisions,
)


@dataclass(frozen=True)
class Synthesize(Stage):
    """``images_per_class`` images of each of ``num_classes`` classes.

    A shard holds ``images_per_shard`` consecutive images of ``classes_per_shard`` consecutive classes, so its
    content does not depend on how many images are asked for: 200 a class after 50 makes exactly the missing
    150.
    """

    config: SynthConfig = SynthConfig()
    num_classes: int = 1000
    seed: int = 0

    kind = "synth"

    def label(self) -> str:
        return grid_label(self.config.weights)

    def identity(self) -> dict[str, Any]:
        return grid_identity(self.config, self.seed)

    def revisions(self) -> dict[str, str]:
        return grid_revisions(self.config.weights)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        if c.images_per_class < 1 or c.images_per_shard < 1 or c.classes_per_shard < 1:
            raise RecipeError(
                "synth.images_per_class, images_per_shard and classes_per_shard must be at least 1."
            )
        if c.guidance < 1:
            raise RecipeError(
                f"synth.guidance is {c.guidance}, which weakens the class; it must be at least 1 (1 = no"
                " guidance)."
            )
        if c.weights != "train":
            generator_of(c.weights).check(c)
            generator_of(c.weights).check_classes(c, self.num_classes)
        fitted = tuple(n.as_input() for n in inputs.values())
        return [Shard(key, params, fitted, items) for key, params, items in blocks(c, self.num_classes)]

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        passes = c.steps * (1 if c.guidance == 1.0 else 2)
        batch = c.batch_size * (1 if c.guidance == 1.0 else 2)
        return of_latents(
            c.weights, "transformer", inputs, passes, 0, precision=c.precision, batch=batch, casts=True
        )

    def open(self, context: WorkContext) -> _Synthesizer:
        return _Synthesizer(self, context)


class _Synthesizer(GridWorker):
    def __init__(self, stage: Synthesize, context: WorkContext):
        weights = next(iter(context.fitted.values()), stage.config.weights)
        generator = generator_of(weights)
        super().__init__(
            stage, context, generator.from_labels(stage.config, context.device, stage.num_classes)
        )

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        keys, labels, _ = zip(*grid_items(shard.params), strict=True)
        table, _, failures = self.images(keys, labels, labels)
        return Rows(table, failures)

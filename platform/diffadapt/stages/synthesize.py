"""Synthesis stage: labelled images from a class-conditional diffusion model (SDA section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.models.weights import revision
from diffadapt.stages.image_grid import blocks, grid_identity, weights_label


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
        return weights_label(self.config.weights)

    def identity(self) -> dict[str, Any]:
        return grid_identity(self.config, self.seed)

    def revisions(self) -> dict[str, str]:
        return {} if self.config.weights == "train" else {"generator": revision(self.config.weights)}

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
        fitted = tuple(n.as_input() for n in inputs.values())
        return [Shard(key, params, fitted, items) for key, params, items in blocks(c, self.num_classes)]

    def open(self, context: WorkContext) -> _Synthesizer:
        return _Synthesizer(self, context)


class _Synthesizer:
    def __init__(self, stage: Synthesize, context: WorkContext):
        from diffadapt.data.image import encode_png
        from diffadapt.diffusion.generators.dit import load_generator
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.encoding import Encoder

        weights = next(iter(context.fitted.values()), stage.config.weights)
        self.stage = stage
        self.generator = load_generator(weights, context.device, stage.config.precision, stage.config.compile)
        if stage.num_classes > self.generator.num_classes:
            raise RecipeError(
                f"The data has {stage.num_classes} classes but the generator {stage.label()} knows"
                f" {self.generator.num_classes}: use a generator of these classes, or train one with"
                " --synth.weights train."
            )
        self.encoder = Encoder(encode_png)
        self.batcher = Batcher(context.batch_size or stage.config.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        p = shard.params
        items = [
            (c, i) for i in range(p["start"], p["stop"]) for c in range(p["first_class"], p["last_class"])
        ]
        keys = [f"synthetic/0/c{c:04d}/i{i:06d}" for c, i in items]
        seeds = [item_seed(self.stage.seed, "synthetic", key, self.stage.kind) for key in keys]

        def process(batch: Sequence[int]) -> list[Future[bytes]]:
            images = self.generator.sample(
                [items[i][0] for i in batch], [seeds[i] for i in batch], self.stage.config
            )
            return self.encoder.submit(images.permute(0, 2, 3, 1).contiguous().numpy())

        done, failures = self.batcher.run(range(len(items)), keys, process)
        index = [i for i, _ in done]
        return Rows(
            image_table(
                [keys[i] for i in index],
                [items[i][0] for i in index],
                [b.result() for _, b in done],
                [seeds[i] for i in index],
            ),
            failures,
        )

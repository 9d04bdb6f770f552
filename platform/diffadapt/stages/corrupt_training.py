"""Training images of a student: source or synthetic images, each with corruptions of a fixed list that are no
test types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.data.config import CORRUPTIONS, TRAINING_CORRUPTIONS


@dataclass(frozen=True)
class CorruptTraining(Stage):
    """One shard for each shard of the images, or for as many, evenly spread, as hold about ``images`` of them
    (0: all). Each image gets ``copies`` corruptions, drawn with their severity from its seed; none at all is
    drawn as often as each of them. Labels are left behind: nothing that follows reads them.
    """

    corruptions: tuple[str, ...] = TRAINING_CORRUPTIONS
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    images: int = 0
    copies: int = 1
    channels: int = 3
    size: int = 256
    seed: int = 0

    kind = "student-images"

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        values.pop("images")  # it decides which shards there are, not what is in them
        return {**values, "corruptions": list(self.drawn)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        tested = [c for c in self.corruptions if c in CORRUPTIONS]
        if tested:
            raise RecipeError(
                f"distil.corruptions names {tested[0]!r}, which is a test corruption: a student that was"
                " trained on it would be judged by what it knows; choose from"
                f" {', '.join(TRAINING_CORRUPTIONS)}."
            )
        unknown = [c for c in self.corruptions if c not in TRAINING_CORRUPTIONS]
        if unknown or not self.drawn or not self.severities:
            what = f"names {unknown[0]!r}, which is not known" if unknown else "leaves nothing to draw"
            raise RecipeError(f"distil.corruptions {what}: choose from {', '.join(TRAINING_CORRUPTIONS)}.")
        (images,) = inputs.values()
        shards = one_to_one(images)
        wanted = _enough([s.items for s in shards], self.images)
        step = len(shards) / wanted
        chosen = [shards[int(i * step)] for i in range(wanted)]
        return [Shard(s.key, {}, s.inputs, s.items * self.copies) for s in chosen]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The types that change images of so many channels."""
        return tuple(c for c in self.corruptions if self.channels == 3 or c != "saturate")

    def open(self, context: WorkContext) -> _Worker:
        return _Worker(self)

    def resources(self) -> str:
        return "cpu"


def _enough(items: Sequence[int], images: int) -> int:
    """How many shards of the mean size hold ``images``; 0: all."""
    if not images or sum(items) <= images:
        return len(items)
    return max(1, -(-images * len(items) // sum(items)))


class _Worker:
    def __init__(self, stage: CorruptTraining):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np

        from diffadapt.data.corruptions import corrupt
        from diffadapt.data.image import encode_png
        from diffadapt.data.prepare import prepare
        from diffadapt.stages.decoding import decode_rows

        stage = self.stage
        decoded = decode_rows(inputs[0], stage.channels, lambda a: prepare(a, stage.size))
        keys, images, seeds = [], [], []
        for key, image in zip(decoded.keys, decoded.images, strict=True):
            for copy in range(stage.copies):
                made = f"student/{copy}/{key}"
                seed = item_seed(stage.seed, "training", made, stage.kind)
                rng = np.random.default_rng(seed)
                name = (*stage.drawn, None)[rng.integers(len(stage.drawn) + 1)]
                severity = int(stage.severities[rng.integers(len(stage.severities))])
                keys.append(made)
                seeds.append(seed)
                images.append(encode_png(corrupt(image, name, severity, seed) if name else image))
        failures = [
            Failure(f"student/{copy}/{f.key}", f.reason)
            for f in decoded.failures
            for copy in range(stage.copies)
        ]
        return Rows(image_table(keys, [None] * len(keys), images, seeds, ".png"), failures)

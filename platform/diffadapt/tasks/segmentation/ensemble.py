"""Two segmenters on two images of one scene: the sum of their maps of probabilities (SDA, Eq. 9, pixel by
pixel)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.core.artifact import Failure, Input, Rows, Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.stage import NodePlan, WorkContext
from diffadapt.tasks.segmentation.predict import Predictor, PredictSegments, segment_rows

if TYPE_CHECKING:
    import torch


def together(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, h, w) of two segmenters -> the mean of their probabilities, float32 (B, C, h, w), whose
    argmax is the prediction. Raises ValueError for other shapes."""
    if first.shape != second.shape:
        raise ValueError(f"The two segmenters gave {tuple(first.shape)} and {tuple(second.shape)}.")
    return (first.float().softmax(1) + second.float().softmax(1)) / 2


@dataclass(frozen=True)
class PredictTogether(PredictSegments):
    """Inputs: scenes, the same scenes as another model sees them (projected), then the segmenter of the first
    and that of the second; where both are one, it stands once. Truth is that of the first."""

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "ensemble": "sda"}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        scenes = [node for node in inputs.values() if not node.stage.fit_stage]
        fitted = [node.as_input() for node in inputs.values() if node.stage.fit_stage]
        first, second = scenes[0], scenes[-1]
        if [p.shard.key for p in first.shards] != [p.shard.key for p in second.shards]:
            raise RecipeError(
                f"The shards of {first.name} and {second.name} are not the same scenes, so that no two images"
                " of one scene can be predicted together."
            )
        shards = []
        for p, q in zip(first.shards, second.shards, strict=True):
            read = dict.fromkeys((Input(first.name, p.digest), Input(second.name, q.digest)))
            group = {"group": p.shard.params["group"]} if "group" in p.shard.params else {}
            shards.append(Shard(p.shard.key, group, (*read, *fitted), p.shard.items))
        return shards

    def open(self, context: WorkContext) -> _Together:
        return _Together(self, context)


class _Together:
    def __init__(self, stage: PredictTogether, context: WorkContext):
        folders = list(context.fitted.values())
        self.first = Predictor(stage, context, folders[0])
        self.second = self.first if len(folders) == 1 else Predictor(stage, context, folders[-1])

    @property
    def batch_size(self) -> int:
        return self.first.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        rows, scenes, failures = self.first.read(inputs[0])
        _, others, lost = self.second.read(inputs[-1])
        known = {s.key: s for s in others}
        why = {f.key: f for f in lost}
        pairs = [(s, known[s.key]) for s in scenes if s.key in known]
        missing = [
            why.get(s.key) or Failure(s.key, "its second image was not made, so that it has no ensemble.")
            for s in scenes
            if s.key not in known
        ]

        def predict(batch: Sequence[tuple[Any, Any]]) -> list[Any]:
            one, two = ([pair[i] for pair in batch] for i in (0, 1))
            return self.first.counted(together(self.first.logits(one), self.second.logits(two)), one)

        done, also = self.first.batcher.run(pairs, [s.key for s, _ in pairs], predict)
        made = segment_rows(
            [pairs[i][0].key for i, _ in done],
            [found for _, found in done],
            [*failures, *missing, *also],
        )
        made.warnings = list(rows.warnings)
        return made

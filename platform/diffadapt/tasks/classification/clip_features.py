"""CLIP's image features of a set, for the diversity that a report tells of (metrics/diversity.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import FEATURES_SCHEMA, Rows, Shard
from diffadapt.core.config import execution, stated_precision
from diffadapt.core.flops import Call
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.models.clip_folder import check_clip
from diffadapt.models.config import ClipConfig
from diffadapt.models.weights import revision
from diffadapt.report.figures import evenly
from diffadapt.tasks.classification.clip_worker import ClipWorker, clip_calls, clip_label

NO_VIEWS: list[float] = []


@dataclass(frozen=True)
class ClipFeatures(Stage):
    """Input: images. Rows of FEATURES_SCHEMA with ``test`` alone: unit features in CLIP's common space."""

    config: ClipConfig = ClipConfig()
    shards: int = execution(0)
    """Only so many of the input's shards, evenly spread; 0: all. What is made of a shard does not depend on
    it."""

    kind = "clip-features"

    def label(self) -> str:
        return clip_label(self.config)

    def identity(self) -> dict[str, Any]:
        return {"precision": stated_precision(self.config)}

    def revisions(self) -> dict[str, str]:
        return {"clip": revision(self.config.weights)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_clip(self.config.weights)
        (images,) = inputs.values()
        made = one_to_one(images)
        return evenly(made, self.shards) if self.shards and len(made) > self.shards else made

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        return clip_calls(self.config)

    def open(self, context: WorkContext) -> _Extractor:
        return _Extractor(self.config, context)


class _Extractor(ClipWorker):
    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import pyarrow as pa

        rows = self.vectors(inputs[0], self.clip.image_features)
        columns = {name: rows.table.column(name) for name in ("key", "label")}
        none = [NO_VIEWS] * len(rows)
        made = {"test": rows.table.column("logits"), "weak": none, "strong": none}
        return Rows(pa.table({**columns, **made}, schema=FEATURES_SCHEMA), rows.failures)

"""Prediction stage for frozen backbones: logits of a trained head on cached test features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import DataError
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.stages.roles import adapted, held_out_keys, only


@dataclass(frozen=True)
class PredictHead(Stage):
    """Inputs: cached features, then the fitted head, then a hold-out where only the images that it holds out
    of training are predicted. Rows in LOGITS_SCHEMA."""

    num_classes: int = 0

    kind = "head-logits"

    def label(self) -> str:
        return "head"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        features, *fitted = inputs.values()
        return one_to_one(features, fitted)

    def open(self, context: WorkContext) -> _Predictor:
        return _Predictor(self, context)

    def resources(self) -> str:
        return "cpu"


class _Predictor:
    def __init__(self, stage: PredictHead, context: WorkContext):
        from diffadapt.models.mlp_head import load_head

        self.keys = held_out_keys(context)
        self.head, info = load_head(adapted(context))
        self.width = info["width"]
        if stage.num_classes and info["num_classes"] != stage.num_classes:
            raise DataError(
                f"The head has {info['num_classes']} classes, but the data have {stage.num_classes}: train it"
                " on these classes."
            )

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import torch

        from diffadapt.stages.models import logits_rows
        from diffadapt.tasks.classification.feature_table import feature_arrays

        rows = only(inputs[0], self.keys)
        test = feature_arrays(rows)["test"]
        if len(test) and test.shape[1] != self.width:
            raise DataError(
                f"The cached features have width {test.shape[1]}, but the head takes {self.width}: both need"
                " the same backbone."
            )
        with torch.inference_mode():
            logits = self.head(torch.tensor(test)).numpy() if len(test) else test
        return logits_rows(rows.column("key"), rows.column("label"), logits, rows.failures)

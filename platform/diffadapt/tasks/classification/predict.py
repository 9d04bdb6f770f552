"""Prediction stage: logits of one classifier on one set of images. Ensembles are views over these (SDA
equation 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import ItemError
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.models import classifier_identity, classifier_revisions, logits_rows, open_classifier


@dataclass(frozen=True)
class Predict(Stage):
    """Inputs: images, then the fitted classifier if ``fitted``."""

    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int | None = None
    fitted: bool = False

    kind = "logits"

    def label(self) -> str:
        return "fitted" if self.fitted else self.classifier.name.rstrip("/").split("/")[-1]

    def identity(self) -> dict[str, Any]:
        return {"classifier": classifier_identity(self.classifier), "fitted": self.fitted}

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, self.fitted)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        images, *fitted = inputs.values()
        return one_to_one(images, fitted)

    def open(self, context: WorkContext) -> _Predictor:
        return _Predictor(self, context)


class _Predictor:
    def __init__(self, stage: Predict, context: WorkContext):
        from diffadapt.stages.batching import Batcher

        self.stage, self.device = stage, context.device
        self.model = open_classifier(stage.classifier, context.fitted, stage.num_classes, context.device)
        self.batcher = Batcher(context.batch_size or stage.classifier.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np
        import torch

        from diffadapt.models.preprocess import to_input
        from diffadapt.stages.decoding import decode_rows

        decoded = decode_rows(inputs[0], self.stage.classifier.in_channels)

        @torch.inference_mode()
        def process(batch: Sequence[int]) -> list[np.ndarray]:
            x = to_input([decoded.images[i] for i in batch], self.stage.classifier, self.device)
            logits = self.model(x).float().cpu().numpy()
            if not np.isfinite(logits).all():
                raise ItemError(
                    "the classifier's output has NaN or infinity: use classifier.precision fp32, or check the"
                    " weights"
                )
            return list(logits)

        done, failures = self.batcher.run(range(len(decoded.keys)), decoded.keys, process)
        index = [i for i, _ in done]
        logits = np.stack([r for _, r in done]) if done else np.zeros((0, 0), np.float32)
        return logits_rows(
            [decoded.keys[i] for i in index],
            [decoded.labels[i] for i in index],
            logits,
            decoded.failures + failures,
        )

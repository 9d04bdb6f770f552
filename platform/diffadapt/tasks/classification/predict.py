"""Prediction stage: logits of one classifier on one set of images. Ensembles are views over these (SDA
equation 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.flops import Call
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.stages.calls import of_classifier
from diffadapt.stages.models import (
    classifier_identity,
    classifier_notes,
    classifier_revisions,
    open_classifier,
    predicted_logits,
)
from diffadapt.stages.roles import held_out_keys, only


@dataclass(frozen=True)
class Predict(Stage):
    """Inputs: images, then the fitted classifier if ``fitted``, then a hold-out where only the images that it
    holds out of training are predicted."""

    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int | None = None
    fitted: bool = False

    kind = "logits"

    def label(self) -> str:
        return "fitted" if self.fitted else self.classifier.name.rstrip("/").split("/")[-1]

    def identity(self) -> dict[str, Any]:
        return {"classifier": classifier_identity(self.classifier), "fitted": self.fitted}

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, self.fitted, self.num_classes)

    def notes(self) -> tuple[str, ...]:
        return classifier_notes(self.classifier, self.fitted)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        images, *fitted = inputs.values()
        return one_to_one(images, fitted)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        return of_classifier(self.classifier, self.num_classes)

    def open(self, context: WorkContext) -> _Predictor:
        return _Predictor(self, context)


class _Predictor:
    def __init__(self, stage: Predict, context: WorkContext):
        from diffadapt.models.preprocess import prepare_image
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.decoding import Decoder

        self.stage, self.device, self.keys = stage, context.device, held_out_keys(context)
        self.model = open_classifier(stage.classifier, context.fitted, stage.num_classes, context.device)
        self.config = with_inputs(stage.classifier)
        self.batcher = Batcher(context.batch_size or stage.classifier.batch_size)
        self.decoder = Decoder(
            self.config.in_channels, lambda image, key: prepare_image(image, self.config), context.readers
        )

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def begin(self, inputs: Sequence[Rows]) -> None:
        """What comes next, told while this shard is worked on."""
        if self.keys is None:
            self.decoder.begin(inputs[0], self.batcher.batch_size)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import torch

        from diffadapt.models.preprocess import stacked_input

        config = self.config

        @torch.inference_mode()
        def predict(images: list[Any]) -> Any:
            return self.model(stacked_input(images, config, self.device)).float().cpu().numpy()

        what = (
            "the classifier's output has NaN or infinity: use classifier.precision fp32, or check the weights"
        )
        return predicted_logits(self.batcher, only(inputs[0], self.keys), self.decoder, predict, what)

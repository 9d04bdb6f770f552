"""Feature stage: what a frozen backbone makes of every image's test, weak and strong views, computed once and
then trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diffadapt.core.artifact import FEATURES_SCHEMA, Rows, Shard
from diffadapt.core.errors import ItemError, RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.methods.uda.config import UdaTraining
from diffadapt.models.config import BackboneConfig
from diffadapt.stages.calls import of_classifier
from diffadapt.stages.models import classifier_identity, classifier_notes, classifier_revisions


@dataclass(frozen=True)
class Features(Stage):
    """Input: images. Rows in FEATURES_SCHEMA: ``test`` (D), ``weak`` (weak_views x D) and ``strong``
    (strong_views x D) features.

    The test view is the recipe's evaluation view, which the prediction stage sees, so that a classifier
    merged from backbone and head gives on an image what the head gives on its test features. The other views
    are those of ``augment``
    (tasks/classification/augment_views.py); each depends on the seed, the image's key and the view's number
    alone.
    """

    backbone: BackboneConfig = BackboneConfig()
    augment: Literal["uda", "crop", "center", "shift", "none"] = "uda"
    flip: bool = True
    seed: int = 0
    scale: tuple[float, float] = UdaTraining.scale
    """RandomResizedCrop's part of the area (augment uda)."""

    kind = "features"

    def label(self) -> str:
        return self.backbone.name.rstrip("/").split("/")[-1]

    def identity(self) -> dict[str, Any]:
        fields = classifier_identity(self.backbone)
        fields.pop("frozen")
        crop = self.augment == "uda" and self.scale != UdaTraining.scale
        scale = {"scale": list(self.scale)} if crop else {}
        return {"backbone": fields, "augment": self.augment, "flip": self.flip, "seed": self.seed, **scale}

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.backbone, False)

    def notes(self) -> tuple[str, ...]:
        return classifier_notes(self.backbone)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if self.backbone.name == "train":
            raise RecipeError(
                "A frozen backbone needs trained weights, but backbone.name is 'train': name weights, or set"
                " backbone.frozen to false."
            )
        (images,) = inputs.values()
        return one_to_one(images)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        return of_classifier(self.backbone, None, passes=self.views)

    def open(self, context: WorkContext) -> _Extractor:
        return _Extractor(self, context)

    @property
    def views(self) -> int:
        """Views an image."""
        return 1 + (self.backbone.weak_views or 0) + (self.backbone.strong_views or 0)

    def seeds(self, key: str) -> list[tuple[str, int]]:
        """(kind, seed) of each view that is augmented, in the order in which they are stored."""
        counts = (("weak", self.backbone.weak_views), ("strong", self.backbone.strong_views))
        return [
            (kind, item_seed(self.seed, "features", key, f"{kind}-{i}"))
            for kind, count in counts
            for i in range(count or 0)
        ]


class _Extractor:
    def __init__(self, stage: Features, context: WorkContext):
        import torch

        from diffadapt.models.backbone import load_backbone
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.decoding import Decoder
        from diffadapt.tasks.classification.augment_views import make_views, preparation

        self.stage, self.device = stage, context.device
        self.model = load_backbone(stage.backbone, context.device).module.to(
            memory_format=torch.channels_last
        )
        self.augments = make_views(stage.augment, stage.backbone, stage.flip, stage.scale)
        self.batcher = Batcher((context.batch_size or stage.backbone.batch_size) // stage.views)
        self.decoder = Decoder(stage.backbone.in_channels, self._views, context.readers)
        native = stage.backbone.eval_resize == "native"  # such a view may be of the image as it is
        self.prepare = None if native else preparation(stage.augment, stage.backbone)

    @property
    def batch_size(self) -> int:
        """Views in one forward pass."""
        return self.batcher.batch_size * self.stage.views

    def begin(self, inputs: Sequence[Rows]) -> None:
        """What comes next, told while this shard is worked on."""
        self.decoder.begin(inputs[0], self.batcher.batch_size)

    def _views(self, image: Any, key: str) -> list[Any]:
        """All views of one image, which is decoded and squashed once for them."""
        image = self.prepare(image) if self.prepare else image
        return [
            self.augments["test"](image, 0),
            *(self.augments[kind](image, seed) for kind, seed in self.stage.seeds(key)),
        ]

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np
        import pyarrow as pa
        import torch

        from diffadapt.compute.precision import autocast, float32_mode
        from diffadapt.models.preprocess import normalise

        config = self.stage.backbone
        decoded = self.decoder.open(inputs[0], self.batcher.batch_size)

        @torch.inference_mode()
        def process(batch: Sequence[int]) -> list[np.ndarray]:
            stacked = torch.stack([view for i in batch for view in decoded.images[i]])
            x = normalise(stacked.to(self.device), config).contiguous(memory_format=torch.channels_last)
            with float32_mode(config.precision), autocast(self.device, config.precision):
                features = self.model(x).float().cpu().numpy()
            if not np.isfinite(features).all():
                raise ItemError(
                    "the backbone's features have NaN or infinity: use backbone.precision fp32, or check the"
                    " weights"
                )
            return list(features.reshape(len(batch), self.stage.views, -1))

        done, failures = self.batcher.run(range(len(inputs[0])), decoded.keys, process, decoded.reach)
        index, weak = [i for i, _ in done], 1 + (config.weak_views or 0)
        parts = {"test": slice(0, 1), "weak": slice(1, weak), "strong": slice(weak, None)}
        columns = {
            kind: pa.array([made[part].ravel() for _, made in done], pa.list_(pa.float32()))
            for kind, part in parts.items()
        }
        keys, labels = (
            pa.array([decoded.keys[i] for i in index], pa.string()),
            pa.array([decoded.labels[i] for i in index], pa.int64()),
        )
        return Rows(
            pa.table({"key": keys, "label": labels, **columns}, schema=FEATURES_SCHEMA),
            decoded.failures + failures,
        )

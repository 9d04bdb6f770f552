"""Prediction stage: boxes of one detector on one set of scenes, beside the true ones where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import BOXES_SCHEMA, Rows, Shard
from diffadapt.core.config import stated_precision, to_dict
from diffadapt.core.errors import ItemError
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.detection.config import DetectorConfig


@dataclass(frozen=True)
class PredictBoxes(Stage):
    """Inputs: scenes (or transferred scenes, of which those that were refused are passed over), then the
    fitted detector.

    Images are brought to ``config.size``; boxes are stored in pixels of the image as it lies. The network,
    and how its input is normalised, are the fitted folder's; the least score, the overlap and the number of
    detections are ``config``'s.
    """

    config: DetectorConfig = DetectorConfig()
    classes: ClassTable = ClassTable()

    kind = "boxes"

    def identity(self) -> dict[str, Any]:
        c = self.config
        chosen = {
            "size": list(c.size),
            "score": c.score,
            "overlap": c.overlap,
            "detections": c.detections,
            "precision": stated_precision(c),
        }
        return {**chosen, "classes": to_dict(self.classes, identity_only=True)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        scenes, *fitted = inputs.values()
        assert len(fitted) == 1, "one fitted detector"
        return one_to_one(scenes, fitted)

    def open(self, context: WorkContext) -> _Predictor:
        return _Predictor(self, context)


class _Predictor:
    def __init__(self, stage: PredictBoxes, context: WorkContext):
        from diffadapt.data.scenes.rows import demand_classes
        from diffadapt.models.detection.folder import load_detector
        from diffadapt.stages.batching import Batcher

        self.stage, self.device = stage, context.device
        self.net, self.inputs, classes, _ = load_detector(
            next(iter(context.fitted.values())), context.device, stage.config
        )
        demand_classes("detector", classes.names, stage.classes.names)
        self.batcher = Batcher(context.batch_size or stage.config.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import pyarrow as pa

        from diffadapt.data.scenes.rows import accepted, decode_scenes

        scenes, failures = decode_scenes(accepted(inputs[0]), annotation=False)
        done, also = self.batcher.run(scenes, [s.key for s in scenes], self._predict)
        found = [scenes[i] for i, _ in done]
        columns = {
            "key": [s.key for s in found],
            "label": [None] * len(found),
            "objects": [s.objects for s in found],
            "boxes": [boxes for _, boxes in done],
            "width": [s.image.shape[1] for s in found],
            "height": [s.image.shape[0] for s in found],
        }
        return Rows(
            pa.table({f.name: pa.array(columns[f.name], f.type) for f in BOXES_SCHEMA}, schema=BOXES_SCHEMA),
            [*failures, *also],
        )

    def _predict(self, scenes: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The boxes found in each scene, the surest first."""
        import torch

        from diffadapt.compute.precision import autocast, float32_mode
        from diffadapt.models.segmentation.inputs import fit_image, normalise, stacked

        size, precision = self.stage.config.size, self.stage.config.precision
        x = stacked([fit_image(s.image, size) for s in scenes]).to(self.device)
        with torch.inference_mode(), float32_mode(precision), autocast(self.device, precision):
            result = self.net(normalise(x, self.inputs))
        if not all(bool(torch.isfinite(f.boxes).all() and torch.isfinite(f.scores).all()) for f in result):
            raise ItemError(
                "the detector's output has NaN or infinity: use detector.precision fp32, or check the weights"
            )
        return [_boxes(f, s.image.shape[:2], size) for f, s in zip(result, scenes, strict=True)]


def _boxes(found: Any, stored: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Detections in pixels of ``size`` as dicts in pixels of ``stored``, both (height, width)."""
    y, x = stored[0] / size[0], stored[1] / size[1]
    corners = found.boxes.double().cpu().numpy() * [x, y, x, y]
    labels, scores = found.labels.cpu().tolist(), found.scores.double().cpu().tolist()
    return [
        {"category": c, "bbox": box.tolist(), "score": s}
        for c, box, s in zip(labels, corners, scores, strict=True)
        if c >= 0
    ]

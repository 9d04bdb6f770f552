"""Prediction stage: label maps of one segmenter on one set of scenes, with confusion counts where the truth
is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffadapt.core.artifact import IMAGE_TYPE, SEGMENTS_SCHEMA, Failure, Rows, Shard
from diffadapt.core.config import stated_precision, to_dict
from diffadapt.core.errors import ItemError, WeightsError
from diffadapt.core.flops import Call
from diffadapt.core.leniency import missing
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.source import shell

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PredictSegments(Stage):
    """Inputs: scenes (or transferred scenes, of which those that were refused are passed over), then the
    fitted segmenter.

    Images are brought to ``config.size`` (Lanczos), label maps by the nearest pixel; predictions have that
    size. The network, and how its input is normalised, are the fitted folder's.
    """

    config: SegmenterConfig = SegmenterConfig()
    classes: ClassTable = ClassTable()
    folder: str = ""
    """A segmenter folder to use where no fitted one is among the inputs; it counts by its content."""

    kind = "segments"
    may_warn = True

    def identity(self) -> dict[str, Any]:
        return {
            "size": list(self.config.size),
            "precision": stated_precision(self.config),
            "classes": to_dict(self.classes, identity_only=True),
        }

    def revisions(self) -> dict[str, str]:
        if not self.folder:
            return {}
        from diffadapt.models.weights import content_revision, resolve

        try:
            return {"segmenter": content_revision(resolve(self.folder))}
        except WeightsError as error:
            missing(error)
            return {"segmenter": f"missing:{self.folder}"}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        scenes, *fitted = inputs.values()
        assert bool(fitted) != bool(self.folder), "a fitted segmenter, or the folder of one"
        return one_to_one(scenes, fitted)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        fits = [plan.stage for plan in inputs.values() if plan.stage.fit_stage]
        config: SegmenterConfig | None = getattr(fits[0], "config", None) if fits else None
        if config is None:
            return None
        shared = {"precision": self.config.precision, "batch": self.config.batch_size}
        return (Call(shell(config, len(self.classes.names), self.config.size), **shared),)

    def open(self, context: WorkContext) -> Predictor:
        return Predictor(self, context)


class Predictor:
    """One segmenter ready to predict; ``folder``: its own, where the stage has several."""

    def __init__(self, stage: PredictSegments, context: WorkContext, folder: str = ""):
        from diffadapt.data.scenes.rows import demand_classes
        from diffadapt.models.segmentation.folder import load_segmenter
        from diffadapt.models.weights import resolve
        from diffadapt.stages.batching import Batcher

        self.stage, self.device, self.count = stage, context.device, len(stage.classes.names)
        folder = folder or (next(iter(context.fitted.values())) if context.fitted else resolve(stage.folder))
        self.net, inputs, classes, _ = load_segmenter(folder, context.device)
        self.config = replace(inputs, size=stage.config.size, precision=stage.config.precision)
        demand_classes("segmenter", classes.names, stage.classes.names)
        self.batcher = Batcher(context.batch_size or stage.config.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        rows, scenes, failures = self.read(inputs[0])
        done, also = self.batcher.run(scenes, [s.key for s in scenes], self._predict)
        made = segment_rows(
            [scenes[i].key for i, _ in done], [found for _, found in done], [*failures, *also]
        )
        made.warnings = [*rows.warnings, *_nothing_labelled(made)]
        return made

    def read(self, given: Rows) -> tuple[Rows, list[Any], list[Failure]]:
        """(rows, their sound scenes, failures) of what an earlier stage made."""
        from diffadapt.data.scenes.rows import accepted, decode_scenes

        rows = accepted(given)
        scenes, failures = decode_scenes(rows, annotation=True)
        scenes, wrong = self._sound(scenes)
        return rows, scenes, [*failures, *wrong]

    def _sound(self, scenes: Sequence[Any]) -> tuple[list[Any], list[Failure]]:
        """The scenes whose label maps hold known classes, and the others."""
        from diffadapt.tasks.segmentation.training import label_problem

        problems = [
            label_problem(s.annotation, self.count) if s.annotation is not None else "" for s in scenes
        ]
        sound = [s for s, problem in zip(scenes, problems, strict=True) if not problem]
        return sound, [
            Failure(s.key, problem) for s, problem in zip(scenes, problems, strict=True) if problem
        ]

    def _predict(self, scenes: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray | None, float]]:
        return self.counted(self.logits(scenes).softmax(1), scenes)

    def logits(self, scenes: Sequence[Any]) -> Any:
        """The network's output for ``scenes``, float32 (B, C, *size). Raises ItemError where it is not
        finite."""
        import torch

        from diffadapt.models.segmentation.inputs import logits

        found = logits(self.net, self.config, [s.image for s in scenes], self.device).float()
        if not bool(torch.isfinite(found).all()):
            raise ItemError(
                "the segmenter's output has NaN or infinity: use segmenter.precision fp32, or check the"
                " weights"
            )
        return found

    def counted(
        self, probabilities: Any, scenes: Sequence[Any]
    ) -> list[tuple[np.ndarray, np.ndarray | None, float]]:
        """(label map, confusion or None, confidence) of each scene."""
        import torch

        from diffadapt.metrics.segmentation import confusion
        from diffadapt.models.segmentation.inputs import fit_labels

        confidence, predicted = probabilities.max(1)
        confidence = confidence.double().mean((1, 2)).cpu().numpy()
        maps = predicted.to(torch.uint8).cpu().numpy()
        counts = [
            (
                None
                if s.annotation is None
                else confusion(fit_labels(s.annotation, self.config.size), m, self.count)
            )
            for s, m in zip(scenes, maps, strict=True)
        ]
        return list(zip(maps, counts, confidence.tolist(), strict=True))


def _nothing_labelled(made: Rows) -> list[str]:
    """A sentence on label maps of which no pixel has a class, where that goes for all of ``made``."""
    known = [c for c in made.column("confusion") if c is not None]
    side = round(len(known[0]) ** 0.5) if known else 0
    if not known or any(sum(c[:-side]) for c in known):
        return []
    some = (
        f"the {len(known)} label maps from {made.column('key')[0]} on"
        if len(known) > 1
        else f"the label map of {made.column('key')[0]}"
    )
    return [
        f"No pixel of {some} has a class of the class table, so that no score counts it: check that the table"
        " fits these label files."
    ]


def segment_rows(
    keys: Sequence[str], found: Sequence[tuple[Any, Any, float]], failures: Sequence[Failure]
) -> Rows:
    """(label map uint8 (H, W), confusion (K+1, K+1) or None, confidence) of each key as rows of
    SEGMENTS_SCHEMA."""
    import pyarrow as pa

    from diffadapt.data.image import encode_png

    columns = {
        "key": list(keys),
        "label": [None] * len(keys),
        "prediction": [
            {"bytes": encode_png(m), "path": f"{key}.png"} for key, (m, _, _) in zip(keys, found, strict=True)
        ],
        "confusion": [None if c is None else c.ravel().tolist() for _, c, _ in found],
        "confidence": [confidence for _, _, confidence in found],
    }
    assert SEGMENTS_SCHEMA.field("prediction").type == IMAGE_TYPE
    return Rows(
        pa.table(
            {f.name: pa.array(columns[f.name], f.type) for f in SEGMENTS_SCHEMA}, schema=SEGMENTS_SCHEMA
        ),
        list(failures),
    )

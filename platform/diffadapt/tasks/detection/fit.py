"""Training of an object detector on source scenes and their transferred images: boxes carry over, because the
transfer keeps the layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.core.stage import FitJob, InputFile, NodePlan, whole
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.given import detector_notes
from diffadapt.models.detection.source import (
    check_detector,
    detector_identity,
    detector_revisions,
)
from diffadapt.models.normalisation import normalisation_differences, with_normalisation
from diffadapt.stages.roles import row_inputs
from diffadapt.tasks.detection.config import METHODS, DetectionTraining
from diffadapt.tasks.segmentation.config import check_jitter
from diffadapt.train.fit import Fit, Trained, too_few

PREDICTION = ("precision", "score", "overlap", "detections")
"""Settings of DetectorConfig that training does not look at."""


@dataclass(frozen=True)
class FitDetector(Fit):
    """Inputs: source scenes with boxes and, unless the method is source_only, transferred scenes and the
    decisions of quality control.

    The result is a detector folder (models/detection/folder.py).
    """

    config: DetectorConfig = DetectorConfig()
    training: DetectionTraining = DetectionTraining()
    classes: ClassTable = ClassTable()
    method: str = "both"

    kind = "detector"

    def label(self) -> str:
        return self.method

    def identity(self) -> dict[str, Any]:
        detector = {
            k: v for k, v in detector_identity(with_normalisation(self.config)).items() if k not in PREDICTION
        }
        training = to_dict(self.training, identity_only=True)
        if self.method != "both":
            training.pop("similarity")
        return {
            "detector": detector,
            "training": training,
            "classes": to_dict(self.classes, identity_only=True),
            "method": self.method,
        }

    def revisions(self) -> dict[str, str]:
        return detector_revisions(self.config)

    def notes(self) -> tuple[str, ...]:
        differs = normalisation_differences(self.config)
        return (*detector_notes(self.config, len(self.classes.names)), *([differs] if differs else ()))

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if not self.classes.names:
            raise RecipeError("Detection needs at least one class, but there are none: give a class table.")
        assert self.method in METHODS, f"no method {self.method}"
        check_detector(self.config, self.training.similarity if self.method == "both" else 0.0)
        detector_notes(self.config, len(self.classes.names))
        check_jitter(self.training.jitter)
        return whole(inputs)

    def train(self, job: FitJob) -> Trained:
        import torch

        from diffadapt.models.detection.build import build_detector
        from diffadapt.models.detection.folder import save_detector
        from diffadapt.tasks.detection.training import fit_detector

        source, transferred, boxes, failures = self._sets(job)
        job.count(failures.values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            net = build_detector(self.config, len(self.classes.names))
        scalars = fit_detector(
            source, transferred, boxes, net, self.config, self.training, self.method, self.run(job)
        )

        def save(metrics: dict[str, Any]) -> None:
            extra = {
                "method": self.method,
                "images": metrics["images"],
                "objects": metrics["objects"],
                "selection": "last",
                "training": to_dict(self.training, identity_only=True),
            }
            save_detector(net.cpu(), job.output, self.config, self.classes, extra)

        images, size = scalars["images"], self.training.batch_size
        warnings = too_few(f"{self.method} trains on", images, "image", size)
        return Trained(scalars, save, {}, failures.values(), warnings)

    def _sets(self, job: FitJob) -> tuple[Any, Any, list[Any], dict[str, Failure]]:
        """(source, transferred or None, boxes of every source scene, what could not be used by key). Raises
        DataError when a set is empty."""
        from diffadapt.tasks.segmentation.scene_sets import load_scenes, load_transferred

        files, size, count = row_inputs(job), self.config.size, len(self.classes.names)
        transferred = keep = None
        if self.method != "source_only":
            transferred = load_transferred(job, files[1], size, count)
            keep = set(transferred.keys)
        boxes, failures = self._boxes(files[0], job.read, keep)
        source = load_scenes(
            files[0], job.read, size, count, keep=set(boxes), reason="without boxes", annotated=False
        )
        failures += [*source.failures, *(transferred.failures if transferred is not None else ())]
        if not len(source):
            first = f"; the first: {failures[0].key}: {failures[0].reason}" if failures else ""
            raise DataError(
                "There are no source scenes with boxes to train a detector with: give a data set with"
                f" objects, such as layout coco{first}."
            )
        return source, transferred, [boxes[key] for key in source.keys], {f.key: f for f in failures}

    def _boxes(
        self, files: Sequence[InputFile], read: Any, keep: set[str] | None
    ) -> tuple[dict[str, Any], list[Failure]]:
        """The objects of every scene of ``keep`` (None: all), in pixels of the network's input, and the
        scenes whose objects cannot be used."""
        from diffadapt.data.image import image_size
        from diffadapt.tasks.detection.data import training_boxes

        boxes: dict[str, Any] = {}
        failures: list[Failure] = []
        for file in files:
            rows = read(file)
            columns = (rows.column(name) for name in ("key", "image", "objects"))
            for key, image, objects in zip(*columns, strict=True):
                if keep is not None and key not in keep:
                    continue
                found: Any = (
                    "it has no boxes: give them in the annotations (an empty list where there is no object)."
                )
                try:
                    if objects is not None:
                        stored = image_size(image["bytes"], key)
                        found = training_boxes(objects, stored, self.config.size, len(self.classes.names))
                except ItemError as error:
                    found = str(error)
                if isinstance(found, str):
                    failures.append(Failure(key, found))
                else:
                    boxes[key] = found
        return boxes, failures

"""Training of an object detector on source scenes and their transferred images: boxes carry over, because the
transfer keeps the layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.core.stage import FitJob, InputFile, NodePlan, Stage, whole
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.source import check_detector, detector_identity, detector_revisions
from diffadapt.stages.roles import KEPT, fitted_with, kept_keys, row_inputs
from diffadapt.tasks.detection.config import METHODS, DetectionTraining
from diffadapt.tasks.segmentation.config import check_jitter

PREDICTION = ("precision", "score", "overlap", "detections")
"""Settings of DetectorConfig that training does not look at."""


@dataclass(frozen=True)
class FitDetector(Stage):
    """Inputs: source scenes with boxes and, unless the method is source_only, transferred scenes and the
    decisions of quality control.

    The result is a detector folder (models/detection/folder.py).
    """

    config: DetectorConfig = DetectorConfig()
    training: DetectionTraining = DetectionTraining()
    classes: ClassTable = ClassTable()
    method: str = "both"

    kind = "detector"
    fit_stage = True

    def label(self) -> str:
        return self.method

    def identity(self) -> dict[str, Any]:
        detector = {k: v for k, v in detector_identity(self.config).items() if k not in PREDICTION}
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

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if not self.classes.names:
            raise RecipeError("Detection needs at least one class, but there are none: give a class table.")
        assert self.method in METHODS, f"no method {self.method}"
        check_detector(self.config, self.training.similarity if self.method == "both" else 0.0)
        check_jitter(self.training.jitter)
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        import torch

        from diffadapt.models.detection.build import build_detector
        from diffadapt.models.detection.folder import save_detector
        from diffadapt.tasks.detection.training import fit_detector
        from diffadapt.train.checkpoints import Checkpoints

        source, transferred, boxes, failures = self._sets(job)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            net = build_detector(self.config, len(self.classes.names))
        found = fit_detector(
            source,
            transferred,
            boxes,
            net,
            self.config,
            self.training,
            self.method,
            job.reporter,
            Checkpoints(job.checkpoints),
            readers=0 if job.context.device == "cpu" else job.context.threads,
            until=job.until,
        )
        metrics = {k: v for k, v in found.items() if k not in ("step_seconds", "resumed_from")}
        if job.reporter.rank == 0:
            extra = {
                "method": self.method,
                "images": metrics["images"],
                "objects": metrics["objects"],
                "selection": "last",
                "training": to_dict(self.training, identity_only=True),
            }
            save_detector(net.cpu(), job.output, self.config, self.classes, extra)
        return {
            **metrics,
            "warnings": self._warnings(metrics["images"]),
            "quarantined": [[f.key, f.reason] for f in failures.values()],
        }

    def _sets(self, job: FitJob) -> tuple[Any, Any, list[Any], dict[str, Failure]]:
        """(source, transferred or None, boxes of every source scene, what could not be used by key). Raises
        DataError when a set is empty."""
        from diffadapt.tasks.segmentation.scene_sets import demand_scenes, load_scenes

        files, size, count = row_inputs(job), self.config.size, len(self.classes.names)
        transferred = keep = None
        if self.method != "source_only":
            transferred = load_scenes(
                files[1], job.read, size, count, keep=kept_keys(fitted_with(job, KEPT)), annotated=False
            )
            demand_scenes(
                transferred,
                "transferred",
                "quality control refused them all (lower its thresholds), or none is readable",
            )
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
        from diffadapt.data.scenes.label_maps import image_size
        from diffadapt.tasks.detection.data import training_boxes

        boxes: dict[str, Any] = {}
        failures: list[Failure] = []
        for file in files:
            rows = read(file)
            for key, image, objects in zip(
                rows.column("key"), rows.column("image"), rows.column("objects"), strict=True
            ):
                if keep is not None and key not in keep:
                    continue
                if objects is None:
                    failures.append(
                        Failure(
                            key,
                            "it has no boxes: give them in the annotations (an empty list where there is no"
                            " object).",
                        )
                    )
                    continue
                try:
                    found = training_boxes(
                        objects, image_size(image["bytes"], key), self.config.size, len(self.classes.names)
                    )
                except ItemError as error:
                    found = str(error)
                if isinstance(found, str):
                    failures.append(Failure(key, found))
                else:
                    boxes[key] = found
        return boxes, failures

    def _warnings(self, images: int) -> list[str]:
        if images >= self.training.batch_size:
            return []
        return [
            f"{self.method} trains on {images} image{'' if images == 1 else 's'}, fewer than a batch of"
            f" {self.training.batch_size}, so that every batch holds some of them repeatedly."
        ]

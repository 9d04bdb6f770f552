"""Pictures of SDA for the report: before/after grids of alignment and projection, and Grad-CAM side by side
(SDA Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.identity import digest
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard
from diffadapt.models.config import ClassifierConfig
from diffadapt.report.figures import Figure, FigureStage
from diffadapt.stages.decoding import decode_rows
from diffadapt.stages.models import classifier_identity, classifier_revisions

Picture = tuple[np.ndarray, int | None]
CLASSES, CORRUPTIONS = 10, 8
"""Rows of the grid of classes, and of the Grad-CAM panel, at most."""


@dataclass(frozen=True)
class Figures(FigureStage):
    """Reads a few shards of each image input (the first of each group) and the classifiers; makes PNG files
    and figures.json."""

    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int = 0
    pictures: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    columns: int = 6
    groups: int = 15

    def label(self) -> str:
        return "pictures"

    def resources(self) -> str:
        return "gpu"

    def identity(self) -> dict[str, Any]:
        return {
            "classifier": classifier_identity(self.classifier),
            "pictures": list(self.pictures),
            "models": list(self.models),
            "class_names": list(self.class_names),
            "columns": self.columns,
            "groups": self.groups,
        }

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, "classifier" in self.models)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        chosen: list[Input] = []
        for name, node in inputs.items():
            picked = list(node.shards) if node.stage.fit_stage else _first_of_groups(node, self.groups)
            chosen += [Input(name, p.digest) for p in picked]
        return [Shard("all", {}, tuple(chosen), len(chosen))]

    def figures(self, job: FitJob) -> Iterator[Figure]:
        from diffadapt.report.panels import GradCamRow, before_after_grid, gradcam_panel

        pictures = {name: self._read(job, name) for name in self.pictures}
        if pictures.get("synth") and pictures.get("aligned"):
            synth, aligned = pictures["synth"], pictures["aligned"]
            keys = sorted(set(synth) & set(aligned))
            yield Figure(
                "alignment.png",
                before_after_grid(*self._pairs(keys, synth, aligned, self._class_of(synth), CLASSES)),
                "Synthetic images before and after alignment",
                "Each class as the conditional model made it, and after noising and denoising by the"
                " unconditional model.",
            )
        if not (pictures.get("target") and pictures.get("projected")):
            return
        target, projected = pictures["target"], pictures["projected"]
        keys = _spread(set(target) & set(projected))
        yield Figure(
            "projection.png",
            before_after_grid(*self._pairs(keys, target, projected, _group)),
            "Target images before and after projection",
            "Each corruption as it is met, and after projection into the synthetic domain.",
        )
        if rows := self._gradcam_rows(job, keys, pictures):
            yield Figure(
                "gradcam.png",
                gradcam_panel([GradCamRow(group, cells) for group, cells in rows.items()]),
                "Where the models look (Grad-CAM)",
                "Source image with the source model; the corrupted target with the source model; the"
                " projected target with the source model (DDA) and with the fine-tuned model (SDA). One"
                " target image of each corruption, drawn by a hash of its name.",
            )

    def _read(self, job: FitJob, name: str) -> dict[str, Picture]:
        result: dict[str, Picture] = {}
        for file in job.inputs(name):
            rows = decode_rows(job.read(file), self.classifier.in_channels)
            result.update(zip(rows.keys, zip(rows.images, rows.labels, strict=True), strict=True))
        return result

    def _class_of(self, pictures: dict[str, Picture]) -> Callable[[str], str]:
        def name(key: str) -> str:
            label = pictures[key][1]
            return self.class_names[label] if self.class_names and label is not None else str(label)

        return name

    def _pairs(
        self,
        keys: list[str],
        before: dict[str, Picture],
        after: dict[str, Picture],
        row_of: Callable[[str], str],
        most: int | None = None,
    ) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        """The images before and after, ``columns`` of each row and at most ``most`` rows."""
        rows: dict[str, list[str]] = {}
        for key in keys:
            name = row_of(key)
            if name in rows or most is None or len(rows) < most:
                rows.setdefault(name, []).append(key)
        shown = {name: listed[: self.columns] for name, listed in rows.items()}
        return (
            {name: [before[k][0] for k in listed] for name, listed in shown.items()},
            {name: [after[k][0] for k in listed] for name, listed in shown.items()},
        )

    def _gradcam_rows(
        self, job: FitJob, keys: list[str], pictures: dict[str, dict[str, Picture]]
    ) -> dict[str, list]:
        from diffadapt.models.preprocess import prepare_image, to_input
        from diffadapt.report.panels import GradCamCell
        from diffadapt.stages.models import open_classifier
        from diffadapt.tasks.classification.gradcam import gradcam

        def opened(name: str) -> Any:
            fitted = {name: job.context.fitted[name]} if name in job.context.fitted else {}
            return open_classifier(self.classifier, fitted, self.num_classes, "cpu")

        def cell(model: Any, image: np.ndarray, label: int | None) -> GradCamCell:
            x = to_input([image], self.classifier)
            heat = gradcam(model, x)[0].numpy()
            predicted = int(model(x).argmax(1))
            name = self.class_names[predicted] if self.class_names else str(predicted)
            right = None if label is None else predicted == label
            return GradCamCell(prepare_image(image, self.classifier), heat, name, right)

        source = opened("classifier")
        tuned = opened("finetuned") if "finetuned" in job.context.fitted else None
        rows: dict[str, list] = {}
        for key in keys:
            group = _group(key)
            if group in rows or len(rows) >= CORRUPTIONS:
                continue
            image, label = pictures["target"][key]
            projected = pictures["projected"][key][0]
            clean = pictures.get("clean", {}).get(f"clean/0/{key.split('/', 2)[2]}")
            rows[group] = [
                cell(source, clean[0], label) if clean else None,
                cell(source, image, label),
                cell(source, projected, label),
                cell(tuned, projected, label) if tuned else None,
            ]
        return rows


def _first_of_groups(node: NodePlan, limit: int) -> list[PlannedShard]:
    seen: dict[str, PlannedShard] = {}
    for p in node.shards:
        seen.setdefault(p.shard.params.get("group", "all"), p)
    order = sorted(seen, key=lambda g: (digest(g), g))[:limit] if len(seen) > limit else list(seen)
    return [seen[g] for g in seen if g in order]


def _group(key: str) -> str:
    return "/".join(key.split("/", 2)[:2])


def _spread(keys: set[str]) -> list[str]:
    """Keys by group, within a group in the order of a hash of the image's name, so that all groups show the
    same images."""
    return sorted(keys, key=lambda k: (k.split("/", 2)[:2], digest(k.split("/", 2)[2])))

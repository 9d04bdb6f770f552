"""The report's pictures from stored shards: synthesis and projection before and after, Grad-CAM side by
side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffadapt.core.stage import FitJob
from diffadapt.stages.decoding import decode_rows
from diffadapt.stages.figure_sections import Sections

if TYPE_CHECKING:
    from diffadapt.tasks.classification.figures import Figures

Picture = tuple[np.ndarray, int | None]


def make_figures(stage: Figures, job: FitJob) -> dict[str, Any]:
    """Write PNG files and figures.json into the job's output folder."""
    from diffadapt.report.panels import GradCamRow, before_after_grid, gradcam_panel

    pictures = {name: _read(stage, job, name) for name in stage.pictures}
    sections = Sections(job.output)
    add = sections.add
    if pictures.get("synth") and pictures.get("aligned"):
        before, after = _pairs_by_class(stage, pictures["synth"], pictures["aligned"])
        add(
            "alignment.png",
            before_after_grid(before, after),
            "Synthetic images before and after alignment",
            "Each class as the conditional model made it, and after noising and denoising by the unconditional model.",
        )
    if pictures.get("target") and pictures.get("projected"):
        before, after = _pairs_by_group(stage, pictures["target"], pictures["projected"])
        add("projection.png", before_after_grid(before, after), "Target images before and after projection",
            "Each corruption as it is met, and after projection into the synthetic domain.")  # fmt: skip
        rows = _gradcam_rows(stage, job, pictures)
        if rows:
            add(
                "gradcam.png",
                gradcam_panel([GradCamRow(group, cells) for group, cells in rows.items()]),
                "Where the models look (Grad-CAM)",
                "Source image with the source model; the corrupted target with the source model; the projected target with the source "
                "model (DDA) and with the fine-tuned model (SDA). One target image of each corruption, drawn by a hash of its name.",
            )
    return {"pictures": sections.write()}


def _read(stage: Figures, job: FitJob, name: str) -> dict[str, Picture]:
    found: dict[str, Picture] = {}
    for file in job.inputs(name):
        decoded = decode_rows(job.read(file), stage.classifier.in_channels)
        for key, label, image in zip(decoded.keys, decoded.labels, decoded.images, strict=True):
            found[key] = (image, label)
    return found


def _pairs_by_class(stage: Figures, before: dict[str, Picture], after: dict[str, Picture]):
    rows: tuple[dict, dict] = ({}, {})
    for key in sorted(set(before) & set(after)):
        label = before[key][1]
        name = stage.class_names[label] if stage.class_names and label is not None else str(label)
        if name not in rows[0] and len(rows[0]) >= 10:
            continue
        if len(rows[0].setdefault(name, [])) < stage.columns:
            rows[0][name].append(before[key][0])
            rows[1].setdefault(name, []).append(after[key][0])
    return rows


def _pairs_by_group(stage: Figures, before: dict[str, Picture], after: dict[str, Picture]):
    rows: tuple[dict, dict] = ({}, {})
    for key in _spread(set(before) & set(after)):
        group = "/".join(key.split("/", 2)[:2])
        if len(rows[0].setdefault(group, [])) < stage.columns:
            rows[0][group].append(before[key][0])
            rows[1].setdefault(group, []).append(after[key][0])
    return rows


def _spread(keys: set[str]) -> list[str]:
    """Keys by group, within a group in the order of a hash of the image's name, so that all groups show the
    same images."""
    from diffadapt.core.identity import digest

    return sorted(keys, key=lambda k: (k.split("/", 2)[:2], digest(k.split("/", 2)[2])))


def _gradcam_rows(stage: Figures, job: FitJob, pictures: dict[str, dict[str, Picture]]) -> dict[str, list]:
    from diffadapt.models.preprocess import prepare_image, to_input
    from diffadapt.report.panels import GradCamCell
    from diffadapt.stages.models import open_classifier
    from diffadapt.tasks.classification.gradcam import gradcam

    fitted = job.context.fitted
    source = open_classifier(
        stage.classifier,
        {"classifier": fitted["classifier"]} if "classifier" in fitted else {},
        stage.num_classes,
        "cpu",
    )
    tuned = (
        open_classifier(stage.classifier, {"finetuned": fitted["finetuned"]}, stage.num_classes, "cpu")
        if "finetuned" in fitted
        else None
    )

    def cell(model: Any, image: np.ndarray, label: int | None) -> GradCamCell:
        x = to_input([image], stage.classifier)
        heat = gradcam(model, x)[0].numpy()
        predicted = int(model(x).argmax(1))
        name = stage.class_names[predicted] if stage.class_names else str(predicted)
        return GradCamCell(
            prepare_image(image, stage.classifier), heat, name, None if label is None else predicted == label
        )

    rows: dict[str, list] = {}
    for key in _spread(set(pictures["target"]) & set(pictures["projected"])):
        group, item = "/".join(key.split("/", 2)[:2]), key.split("/", 2)[2]
        if group in rows or len(rows) >= 8:
            continue
        image, label = pictures["target"][key]
        projected = pictures["projected"][key][0]
        clean = pictures.get("clean", {}).get(f"clean/0/{item}")
        rows[group] = [
            cell(source, clean[0], label) if clean else None,
            cell(source, image, label),
            cell(source, projected, label),
            cell(tuned, projected, label) if tuned else None,
        ]
    return rows

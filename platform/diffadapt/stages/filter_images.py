"""Which synthetic images training leaves out: blank ones, near-duplicates, and those in which CLIP does not
see their class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.diffusion.generators.config import FilterConfig
from diffadapt.models.clip_folder import check_clip
from diffadapt.models.weights import revision
from diffadapt.prompts.text import fill
from diffadapt.stages.roles import KEPT, row_inputs

REASONS = ("unreadable", "blank", "near_duplicate", "clip")
"""In the order in which they are looked for; an image has the first that holds."""
CLIP_BATCH = 64


@dataclass(frozen=True)
class FilterImages(Stage):
    """Input: labelled images. Writes kept.parquet: key, label, kept, reason (empty when kept),
    clip_probability (null without CLIP).

    Metrics: ``images``, ``kept``, ``classes`` (name -> made, kept, failed and a count for each of
    :data:`REASONS`), ``warnings`` (a class that lost more than half). Raises DataError when nothing of a
    class is left, because training would never see it.
    """

    config: FilterConfig = FilterConfig()
    class_names: tuple[str, ...] = ()
    channels: int = 3

    kind = "filter"
    fit_stage = True
    trains = False

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self, identity_only=True)
        fields["config"].pop("clip")
        return fields

    def revisions(self) -> dict[str, str]:
        return {"clip": revision(self.config.clip)} if self.config.clip else {}

    def resources(self) -> str:
        return "gpu" if self.config.clip else "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        if c.clip and "{category}" not in c.clip_template:
            raise RecipeError(
                f"filters.clip_template is {c.clip_template!r}, which names no class: write {{category}}"
                " where the class's name belongs."
            )
        if not 0 <= c.clip_threshold < 1:
            raise RecipeError(
                f"filters.clip_threshold is {c.clip_threshold}, but it is a probability below 1; 0 means one"
                " over the number of classes."
            )
        if not -1 <= c.near_duplicates <= 64:
            raise RecipeError(
                f"filters.near_duplicates is {c.near_duplicates}, but it counts differing bits of 64; -1"
                " keeps all images."
            )
        if c.clip:
            check_clip(c.clip)
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        images = _read(self, job)
        _mark_duplicates(images, self.config.near_duplicates)
        if self.config.clip:
            _ask_clip(self, job, images)
        _write(images, job.output)
        return _metrics(self, images)


@dataclass
class _Image:
    key: str
    label: int
    reason: str = ""
    hash: Any = None
    probability: float | None = None


@dataclass
class _Images:
    """All images in the order of their keys; ``failed`` holds those that earlier stages could not make and
    the unreadable, with reasons."""

    all: list[_Image] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def left(self) -> list[_Image]:
        return [image for image in self.all if not image.reason]


def _read(stage: FilterImages, job: FitJob) -> _Images:
    from diffadapt.core.errors import ItemError
    from diffadapt.data.image import decode
    from diffadapt.diffusion.generators.filters import perceptual_hash, spread

    result, config = _Images(), stage.config
    for file in row_inputs(job)[0]:
        rows = job.read(file)
        result.failed += [(failure.key, failure.reason) for failure in rows.failures]
        for key, label, stored in zip(
            rows.column("key"), rows.column("label"), rows.column("image"), strict=True
        ):
            if label is None:
                raise DataError(f"{key} has no label: only labelled images can be filtered class by class.")
            image = _Image(key, label)
            result.all.append(image)
            try:
                pixels = decode(stored["bytes"], stage.channels, key)
            except ItemError as error:
                image.reason = "unreadable"
                result.failed.append((key, str(error)))
                continue
            if config.blank and spread(pixels) < config.blank_std:
                image.reason = "blank"
            elif config.near_duplicates >= 0:
                image.hash = perceptual_hash(pixels)
    result.all.sort(key=lambda image: image.key)
    return result


def _mark_duplicates(images: _Images, distance: int) -> None:
    from diffadapt.diffusion.generators.filters import near_duplicates

    if distance < 0:
        return
    classes: dict[int, list[_Image]] = {}
    for image in images.left():
        classes.setdefault(image.label, []).append(image)
    for members in classes.values():
        for image, earlier in zip(members, near_duplicates([m.hash for m in members], distance), strict=True):
            if earlier is not None:
                image.reason = "near_duplicate"


def _ask_clip(stage: FilterImages, job: FitJob, images: _Images) -> None:
    """Softmax over all class prompts at CLIP's logit scale; an image stays if its own class has more than the
    threshold."""
    from diffadapt.models.clip import load_clip
    from diffadapt.stages.batching import Batcher
    from diffadapt.stages.decoding import decode_rows

    config = stage.config
    clip = load_clip(config.clip, job.context.device)
    classes = clip.class_features([[fill(config.clip_template, name, "")] for name in stage.class_names])
    threshold = config.clip_threshold or 1 / len(stage.class_names)
    left = {image.key: image for image in images.left()}
    batcher = Batcher(job.context.batch_size or CLIP_BATCH)
    files = row_inputs(job)[0]
    for n, file in enumerate(files, 1):
        found = decode_rows(job.read(file), 3)
        mine = [i for i, key in enumerate(found.keys) if key in left]
        done, failures = batcher.run(
            mine,
            [found.keys[i] for i in mine],
            lambda some, found=found: list(clip.logits([found.images[i] for i in some], classes).softmax(1)),
        )
        images.failed += [(failure.key, failure.reason) for failure in failures]
        for position, probabilities in done:
            image = left[found.keys[mine[position]]]
            image.probability = float(probabilities[image.label])
            if not image.probability > threshold:  # NaN is no reason to keep
                image.reason = "clip"
        job.reporter.report(n, len(files), {})


def _write(images: _Images, folder: str) -> None:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "key": pa.array([i.key for i in images.all], pa.string()),
        "label": pa.array([i.label for i in images.all], pa.int64()),
        "kept": pa.array([not i.reason for i in images.all], pa.bool_()),
        "reason": pa.array([i.reason for i in images.all], pa.string()),
        "clip_probability": pa.array([i.probability for i in images.all], pa.float32()),
    }
    pq.write_table(pa.table(columns), Path(folder) / KEPT)


def _metrics(stage: FilterImages, images: _Images) -> dict[str, Any]:
    counts = [Counter() for _ in stage.class_names]
    for image in images.all:
        counts[image.label].update(["made", image.reason or "kept"])
    there = {image.key for image in images.all}
    for key, _ in images.failed:
        made_of = re.search(r"/c(\d+)/i\d+$", key)
        if made_of and int(made_of[1]) < len(counts) and key not in there:
            counts[int(made_of[1])]["failed"] += 1
    empty = [name for name, count in zip(stage.class_names, counts, strict=True) if not count["kept"]]
    if empty:
        first = dict(counts[stage.class_names.index(empty[0])])
        raise DataError(
            f"No image of {_some(empty)} is left for training ({_said(first)} of {empty[0]!r}): loosen the"
            " filters, ask for more images, or mend the prompts of that class."
        )
    warnings = [
        f"The filters left {count['kept']} of {count['made']} images of {name!r} ({_said(count)}): look at"
        " them before you trust the result."
        for name, count in zip(stage.class_names, counts, strict=True)
        if count["kept"] * 2 < count["made"]
    ]
    classes = {
        name: {
            "made": count["made"],
            "kept": count["kept"],
            "failed": count["failed"],
            **{r: count[r] for r in REASONS},
        }
        for name, count in zip(stage.class_names, counts, strict=True)
    }
    return {
        "images": len(images.all),
        "kept": sum(c["kept"] for c in counts),
        "classes": classes,
        "warnings": warnings,
        "quarantined": [[key, reason] for key, reason in images.failed],
    }


def _said(count: Mapping[str, int]) -> str:
    words = {
        "failed": "could not be made",
        "unreadable": "unreadable",
        "blank": "blank",
        "near_duplicate": "near-duplicates",
        "clip": "not recognised by CLIP",
    }
    said = [f"{count[key]} {word}" for key, word in words.items() if count.get(key)]
    return ", ".join(said) or "none was made"


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return shown + (f" and {len(names) - limit} more classes" if len(names) > limit else "")

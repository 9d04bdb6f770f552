"""Makes the pictures of :class:`~diffadapt.tasks.classification.adaptation_figures.AdaptationFigures` from
stored shards and fitted folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffadapt.core.artifact import Rows
from diffadapt.core.identity import digest
from diffadapt.core.record import predictions_by_key, softmax
from diffadapt.core.stage import FitJob, InputFile
from diffadapt.stages.decoding import decode_rows
from diffadapt.stages.figure_sections import Sections
from diffadapt.tasks.classification import adaptation_pictures as draw

if TYPE_CHECKING:
    from diffadapt.tasks.classification.adaptation_figures import AdaptationFigures

CLASSES_SHOWN = 40
PROMPTS_SHOWN = 4
"""Of each class."""
IMAGES_SHOWN = 16
"""Most, and as many least, confident target images."""
LARGE = 16
"""Shards of the target that a feature map reads at most."""
BATCH = 64


def make_figures(stage: AdaptationFigures, job: FitJob) -> dict[str, Any]:
    """Write the files into the job's output folder; the metrics count pictures and prompts."""
    out = Path(job.output)
    sections = Sections(job.output)
    add = sections.add
    prompts = _prompts(stage, job)
    if prompts:
        (out / "prompts.json").write_text(json.dumps(prompts, indent=1, ensure_ascii=False), encoding="utf-8")
    few = (
        f"; the first {CLASSES_SHOWN} of {len(stage.class_names)} classes"
        if len(stage.class_names) > CLASSES_SHOWN
        else ""
    )
    if stage.source:
        kind = "Synthetic images" if stage.prompts else "Source images"
        add(
            "source.png",
            _source(stage, job),
            f"{kind} by class",
            f"The first images of each class in the order of their numbers, not chosen{few}.",
        )
    if stage.target and stage.predictions:
        predicted = predictions_by_key([job.read(f) for f in job.inputs(stage.predictions[-1][1])])
        known = any(label is not None for label, _ in predicted.values())
        add(
            "confidence.png",
            _sure_and_unsure(stage, job, predicted),
            "The target's most and least confident images",
            "Predicted class and its probability by the adapted classifier"
            + (
                ": green when right, red when wrong; training did not see the labels."
                if known
                else "; the target has no labels."
            ),
        )
    if stage.before and stage.after:
        how = "Principal components" if stage.embedding == "pca" else "t-SNE"
        where = (
            "cached backbone features, then behind the adapted head's hidden layer"
            if stage.backbone.frozen
            else "features in front of the last layer"
        )
        add(
            "features.png",
            _features(stage, job),
            "Features before and after adaptation",
            f"{how} of the {where}, each panel for itself. Colour: the class that the model predicts. Up to {stage.sample} images of each domain, drawn by a hash of their names.",
        )
    if stage.predictions:
        shares = {
            t: _confidences(predictions_by_key([job.read(f) for f in job.inputs(n)]))
            for t, n in stage.predictions
        }
        add(
            "histogram.png",
            draw.confidence_histograms(shares),
            "Confidence on the target, stage by stage",
            "How many target images have which largest class probability. Confidence is not accuracy: self-training makes models surer whether they are right or not.",
        )
    return {"pictures": sections.write(), "prompts": len(prompts["prompts"]) if prompts else 0}


def _prompts(stage: AdaptationFigures, job: FitJob) -> dict[str, Any] | None:
    """The first prompts of each class, as prompts.json has them."""
    if not stage.prompts:
        return None
    rows = []
    for file in job.inputs(stage.prompts):
        table = job.read(file)
        rows += list(
            zip(*(table.column(c) for c in ("label", "index", "category", "prompt", "source")), strict=True)
        )
    shown: dict[int, list] = {}
    for label, _, category, prompt, source in sorted(rows):
        if (label in shown or len(shown) < CLASSES_SHOWN) and len(
            shown.setdefault(label, [])
        ) < PROMPTS_SHOWN:
            shown[label].append({"class": category, "prompt": prompt, "source": source})
    sources = sorted({source for *_, source in rows})
    return {
        "prompts": [p for listed in shown.values() for p in listed],
        "sources": sources,
        "classes": len(stage.class_names),
        "shown_classes": len(shown),
    }


def _source(stage: AdaptationFigures, job: FitJob) -> bytes | None:
    images: dict[int, list[np.ndarray]] = {}
    for file in job.inputs(stage.source):
        rows = _decoded(job.read(file), stage)
        for _, label, image in sorted(
            zip(rows.keys, rows.labels, rows.images, strict=True), key=lambda r: r[0]
        ):
            if (
                label is not None
                and label < CLASSES_SHOWN
                and len(images.setdefault(label, [])) < stage.columns
            ):
                images[label].append(image)
    named = {_name(stage, c): images[c] for c in sorted(images) if images[c]}
    return draw.class_grid(named, 96 if len(named) <= 12 else 64) if named else None


def _sure_and_unsure(
    stage: AdaptationFigures, job: FitJob, predicted: dict[str, tuple[int | None, np.ndarray]]
) -> bytes | None:
    if not predicted:
        return None
    p = {k: softmax(logits) for k, (_, logits) in predicted.items()}
    order = sorted(p, key=lambda k: (-p[k].max(), k))
    count = min(IMAGES_SHOWN, len(order) // 2) or 1
    most, least = order[:count], order[::-1][:count]
    wanted = set(most) | set(least)
    images: dict[str, np.ndarray] = {}
    for file in _with_keys(stage, job, wanted):
        rows = _decoded(job.read(file), stage)
        images.update((k, i) for k, i in zip(rows.keys, rows.images, strict=True) if k in wanted)

    def sample(key: str) -> draw.Sample:
        best = int(p[key].argmax())
        label = predicted[key][0]
        return draw.Sample(
            images[key], _name(stage, best), float(p[key].max()), None if label is None else label == best
        )

    return draw.confidence_grid(
        *([sample(k) for k in keys if k in images] for keys in (most, least)), per_row=stage.columns
    )


def _with_keys(stage: AdaptationFigures, job: FitJob, wanted: set[str]) -> list[InputFile]:
    """The target's shards that hold the wanted images: predictions are made shard by shard, under the same
    shard keys."""
    shards = {
        f.shard.key for f in job.inputs(stage.predictions[-1][1]) if wanted & set(job.read(f).column("key"))
    }
    files = list(job.inputs(stage.target))
    return [f for f in files if f.shard.key in shards] or files


def _confidences(predicted: dict[str, tuple[int | None, np.ndarray]]) -> np.ndarray:
    return (
        softmax(np.stack([logits for _, logits in predicted.values()])).max(axis=1)
        if predicted
        else np.zeros(0)
    )


def _features(stage: AdaptationFigures, job: FitJob) -> bytes | None:
    """Both panels; None when a domain has no image."""
    read, nodes = (
        (_cached, stage.features) if stage.backbone.frozen else (_images, (stage.source, stage.target))
    )
    source, target = (read(stage, job, node) for node in nodes)
    if not len(source) or not len(target):
        return None
    is_target = np.arange(len(source) + len(target)) >= len(source)
    panels = []
    for title, node in (("before: source only", stage.before), ("after: adapted", stage.after)):
        features, classes = _run(stage, job.context.fitted[node], [*source, *target], node == stage.after)
        panels.append(draw.FeatureMap(title, _embed(features, stage.embedding), classes, is_target))
    return draw.feature_maps(
        panels,
        [
            _name(stage, c)
            for c in range(max(len(stage.class_names), int(max(p.classes.max() for p in panels)) + 1))
        ],
    )


def _run(
    stage: AdaptationFigures, folder: str, items: Sequence[np.ndarray], after: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(features (N, D), predicted classes (N,)) of one model on images, or of one head on cached features."""
    import torch

    from diffadapt.tasks.classification.penultimate import penultimate

    features, classes = [], []
    if stage.backbone.frozen:
        from diffadapt.models.mlp_head import load_head

        head, info = load_head(folder)
        x = torch.from_numpy(np.stack(items)).float()
        hidden, logits = penultimate(head, x, info["num_classes"])
        features.append(
            (logits if hidden.shape == x.shape and torch.equal(hidden, x) else hidden) if after else x
        )
        classes.append(logits.argmax(1))
    else:
        from diffadapt.models.classifier import load_classifier
        from diffadapt.models.preprocess import to_input

        model = load_classifier(
            replace(stage.backbone, name=folder, arch=None), len(stage.class_names) or None
        )
        for start in range(0, len(items), BATCH):
            hidden, logits = penultimate(
                model, to_input(items[start : start + BATCH], stage.backbone), model.num_classes
            )
            features.append(hidden)
            classes.append(logits.argmax(1))
    return torch.cat(features).numpy(), torch.cat(classes).numpy()


def _embed(features: np.ndarray, how: str) -> np.ndarray:
    if how == "pca" or len(features) < 10:
        return draw.principal_components(features)
    from sklearn.manifold import TSNE

    reduced = draw.principal_components(features, min(50, features.shape[1]))
    return TSNE(2, perplexity=min(30, len(features) // 4), init="pca", random_state=0).fit_transform(reduced)


def _images(stage: AdaptationFigures, job: FitJob, node: str) -> list[np.ndarray]:
    """Up to ``sample`` decoded images of a node."""
    found: list[np.ndarray] = []
    for file, count in _shares(stage, job, node):
        rows = _decoded(job.read(file), stage)
        found += [rows.images[i] for i in _drawn(rows.keys, count)]
    return found


def _cached(stage: AdaptationFigures, job: FitJob, node: str) -> list[np.ndarray]:
    """The same for cached features of the images as they are."""
    found: list[np.ndarray] = []
    for file, count in _shares(stage, job, node):
        rows = job.read(file)
        values = rows.column("test")
        found += [np.asarray(values[i], np.float32) for i in _drawn(rows.column("key"), count)]
    return found


def _drawn(keys: Sequence[str], count: int) -> list[int]:
    return sorted(sorted(range(len(keys)), key=lambda i: digest(keys[i]))[:count])


def _shares(stage: AdaptationFigures, job: FitJob, node: str) -> list[tuple[InputFile, int]]:
    """How many images to draw from each shard: as evenly as their sizes allow, from at most 16 shards of a
    large target."""
    files = list(job.inputs(node))
    if len(files) > LARGE and node in (stage.target, *stage.features[1:]):
        files = [files[i * len(files) // LARGE] for i in range(LARGE)]
    left, out = stage.sample, []
    for i, file in enumerate(sorted(files, key=lambda f: f.shard.items)):
        count = min(file.shard.items, -(-left // (len(files) - i)))
        left -= count
        out.append((file, count))
    return out


def _decoded(rows: Rows, stage: AdaptationFigures) -> Any:
    return decode_rows(rows, stage.backbone.in_channels)


def _name(stage: AdaptationFigures, label: int) -> str:
    return stage.class_names[label] if label < len(stage.class_names) else str(label)

"""Pictures of Adapt Anything for the report: prompts, synthetic images, sure and unsure predictions,
features, confidences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffadapt.core.artifact import Input, Rows, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.identity import digest
from diffadapt.core.record import predictions_by_key, softmax
from diffadapt.core.stage import FitJob, InputFile, NodePlan, PlannedShard
from diffadapt.models.config import BackboneConfig
from diffadapt.report.figures import Figure, FigureStage, evenly
from diffadapt.stages.decoding import decode_rows
from diffadapt.stages.models import classifier_identity
from diffadapt.tasks.classification import adaptation_pictures as draw

CLASSES_SHOWN = 40
PROMPTS_SHOWN = 4
"""Of each class."""
IMAGES_SHOWN = 16
"""Most, and as many least, confident target images."""
LARGE = 16
"""Shards of the target that a feature map reads at most."""
BATCH = 64


@dataclass(frozen=True)
class AdaptationFigures(FigureStage):
    """Inputs, in any order, are found by the node names below; an empty name leaves that picture out.

    Writes PNG files, figures.json and, with prompts, prompts.json.
    """

    class_names: tuple[str, ...] = ()
    backbone: BackboneConfig = BackboneConfig()
    """How an image becomes the classifiers' input; ``frozen``: the fitted inputs are heads for cached
    features."""
    prompts: str = ""
    source: str = ""
    """The source images: synthetic ones when there are prompts."""
    target: str = ""
    predictions: tuple[tuple[str, str], ...] = ()
    """(title of the stage, prediction node on the target) in the order of the stages; the last is the adapted
    classifier."""
    before: str = ""
    """The fitted source-only classifier (or head)."""
    after: str = ""
    """The fitted adapted classifier (or head)."""
    features: tuple[str, ...] = ()
    """Nodes of the cached features of source and target (frozen)."""
    embedding: Literal["pca", "tsne"] = "pca"
    columns: int = 8
    """Images of a class, and confident and unconfident images a row."""
    sample: int = 500
    """Source images, and target images, in the feature map."""

    def label(self) -> str:
        return "adaptation"

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self, identity_only=True)
        fields["backbone"] = {**classifier_identity(self.backbone), "frozen": self.backbone.frozen}
        return fields

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        chosen: list[Input] = []
        for name, node in inputs.items():
            chosen += [Input(name, p.digest) for p in self._needed(name, node)]
        return [Shard("all", {}, tuple(chosen), len(chosen))]

    def _needed(self, name: str, node: NodePlan) -> list[PlannedShard]:
        """All shards of fits, of the target and of its predictions; of prompts and source images the first
        ones of every class."""
        if name == self.prompts:
            return first_of_classes(node, 1)
        if name in (self.source, *self.features[:1]):
            return first_of_classes(node, max(self.sample, len(self.class_names) * self.columns))
        return list(node.shards)

    def fit(self, job: FitJob) -> dict[str, Any]:
        prompts = self._prompts(job)
        if prompts:
            text = json.dumps(prompts, indent=1, ensure_ascii=False)
            (Path(job.output) / "prompts.json").write_text(text, encoding="utf-8")
        return {**super().fit(job), "prompts": len(prompts["prompts"]) if prompts else 0}

    def figures(self, job: FitJob) -> Iterator[Figure]:
        stages = {t: predictions_by_key([job.read(f) for f in job.inputs(n)]) for t, n in self.predictions}
        if self.source:
            kind = "Synthetic images" if self.prompts else "Source images"
            count = len(self.class_names)
            few = f"; the first {CLASSES_SHOWN} of {count} classes" if count > CLASSES_SHOWN else ""
            yield Figure(
                "source.png",
                self._source(job),
                f"{kind} by class",
                f"The first images of each class in the order of their numbers, not chosen{few}.",
            )
        if self.target and self.predictions:
            predicted = stages[self.predictions[-1][0]]
            known = any(label is not None for label, _ in predicted.values())
            colours = "green when right, red when wrong; training did not see the labels."
            yield Figure(
                "confidence.png",
                self._sure_and_unsure(job, predicted),
                "The target's most and least confident images",
                "Predicted class and its probability by the adapted classifier"
                + (f": {colours}" if known else "; the target has no labels."),
            )
        if self.before and self.after:
            how = "Principal components" if self.embedding == "pca" else "t-SNE"
            where = "features in front of the last layer"
            if self.backbone.frozen:
                where = "cached backbone features, then behind the adapted head's hidden layer"
            yield Figure(
                "features.png",
                self._features(job),
                "Features before and after adaptation",
                f"{how} of the {where}, each panel for itself. Colour: the class that the model predicts. Up"
                f" to {self.sample} images of each domain, drawn by a hash of their names.",
            )
        if self.predictions:
            yield Figure(
                "histogram.png",
                draw.confidence_histograms({title: _confidences(found) for title, found in stages.items()}),
                "Confidence on the target, stage by stage",
                "How many target images have which largest class probability. Confidence is not accuracy:"
                " self-training makes models surer whether they are right or not.",
            )

    def _prompts(self, job: FitJob) -> dict[str, Any] | None:
        """The first prompts of each class, as prompts.json has them."""
        if not self.prompts:
            return None
        rows = []
        for file in job.inputs(self.prompts):
            table = job.read(file)
            rows += list(
                zip(
                    *(table.column(c) for c in ("label", "index", "category", "prompt", "source")),
                    strict=True,
                )
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
            "classes": len(self.class_names),
            "shown_classes": len(shown),
        }

    def _source(self, job: FitJob) -> bytes | None:
        images: dict[int, list[np.ndarray]] = {}
        for file in job.inputs(self.source):
            rows = self._decoded(job.read(file))
            for _, label, image in sorted(
                zip(rows.keys, rows.labels, rows.images, strict=True), key=lambda r: r[0]
            ):
                if (
                    label is not None
                    and label < CLASSES_SHOWN
                    and len(images.setdefault(label, [])) < self.columns
                ):
                    images[label].append(image)
        named = {self._name(c): images[c] for c in sorted(images) if images[c]}
        return draw.class_grid(named, 96 if len(named) <= 12 else 64) if named else None

    def _sure_and_unsure(
        self, job: FitJob, predicted: dict[str, tuple[int | None, np.ndarray]]
    ) -> bytes | None:
        if not predicted:
            return None
        p = {k: softmax(logits) for k, (_, logits) in predicted.items()}
        order = sorted(p, key=lambda k: (-p[k].max(), k))
        count = min(IMAGES_SHOWN, len(order) // 2) or 1
        most, least = order[:count], order[::-1][:count]
        wanted = set(most) | set(least)
        images: dict[str, np.ndarray] = {}
        for file in self._with_keys(job, wanted):
            rows = self._decoded(job.read(file))
            images.update((k, i) for k, i in zip(rows.keys, rows.images, strict=True) if k in wanted)

        def sample(key: str) -> draw.Sample:
            best, label = int(p[key].argmax()), predicted[key][0]
            right = None if label is None else label == best
            return draw.Sample(images[key], self._name(best), float(p[key].max()), right)

        return draw.confidence_grid(
            *([sample(k) for k in keys if k in images] for keys in (most, least)), per_row=self.columns
        )

    def _with_keys(self, job: FitJob, wanted: set[str]) -> list[InputFile]:
        """The target's shards that hold the wanted images: predictions are made shard by shard, under the
        same shard keys."""
        shards = {
            f.shard.key
            for f in job.inputs(self.predictions[-1][1])
            if wanted & set(job.read(f).column("key"))
        }
        files = list(job.inputs(self.target))
        return [f for f in files if f.shard.key in shards] or files

    def _features(self, job: FitJob) -> bytes | None:
        """Both panels; None when a domain has no image."""
        nodes = self.features if self.backbone.frozen else (self.source, self.target)
        source, target = (self._sampled(job, node) for node in nodes)
        if not len(source) or not len(target):
            return None
        is_target = np.arange(len(source) + len(target)) >= len(source)
        panels = []
        for title, node in (("before: source only", self.before), ("after: adapted", self.after)):
            features, classes = self._run(job.context.fitted[node], [*source, *target], node == self.after)
            panels.append(draw.FeatureMap(title, _embed(features, self.embedding), classes, is_target))
        count = max(len(self.class_names), *(int(p.classes.max()) + 1 for p in panels))
        return draw.feature_maps(panels, [self._name(c) for c in range(count)])

    def _run(self, folder: str, items: Sequence[np.ndarray], after: bool) -> tuple[np.ndarray, np.ndarray]:
        """(features (N, D), predicted classes (N,)) of a model on images, or of a head on cached features."""
        import torch

        from diffadapt.tasks.classification.penultimate import penultimate

        features, classes = [], []
        if self.backbone.frozen:
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
                replace(self.backbone, name=folder, arch=None), len(self.class_names) or None
            )
            for start in range(0, len(items), BATCH):
                hidden, logits = penultimate(
                    model, to_input(items[start : start + BATCH], self.backbone), model.num_classes
                )
                features.append(hidden)
                classes.append(logits.argmax(1))
        return torch.cat(features).numpy(), torch.cat(classes).numpy()

    def _sampled(self, job: FitJob, node: str) -> list[np.ndarray]:
        """Up to ``sample`` decoded images of a node, or cached features of the images as they are."""
        result: list[np.ndarray] = []
        for file, count in self._shares(job, node):
            rows = job.read(file)
            if self.backbone.frozen:
                keys, values = rows.column("key"), rows.column("test")
                result += [np.asarray(values[i], np.float32) for i in _drawn(keys, count)]
            else:
                decoded = self._decoded(rows)
                result += [decoded.images[i] for i in _drawn(decoded.keys, count)]
        return result

    def _shares(self, job: FitJob, node: str) -> list[tuple[InputFile, int]]:
        """How many images to draw from each shard: as evenly as their sizes allow, from at most LARGE shards
        of a large target."""
        files = list(job.inputs(node))
        if len(files) > LARGE and node in (self.target, *self.features[1:]):
            files = evenly(files, LARGE)
        left, out = self.sample, []
        for i, file in enumerate(sorted(files, key=lambda f: f.shard.items)):
            count = min(file.shard.items, -(-left // (len(files) - i)))
            left -= count
            out.append((file, count))
        return out

    def _decoded(self, rows: Rows) -> Any:
        return decode_rows(rows, self.backbone.in_channels)

    def _name(self, label: int) -> str:
        return self.class_names[label] if label < len(self.class_names) else str(label)


def first_of_classes(node: NodePlan, items: int) -> list[PlannedShard]:
    """The first shards of every range of classes until there are ``items`` rows; of a node without class
    ranges, evenly spread ones."""
    shards = list(node.shards)
    if all({"start", "first_class"} <= set(p.shard.params) for p in shards):
        order = sorted(shards, key=lambda p: (p.shard.params["start"], p.shard.params["first_class"]))
        first = [p for p in order if p.shard.params["start"] == order[0].shard.params["start"]]
    else:
        first = evenly(shards, 16)
        order = [*first, *(p for p in shards if p not in first)]
    chosen, total = [], 0
    for p in order:
        if total >= items and p not in first:
            break
        chosen.append(p)
        total += p.shard.items
    return chosen


def _confidences(predicted: dict[str, tuple[int | None, np.ndarray]]) -> np.ndarray:
    if not predicted:
        return np.zeros(0)
    return softmax(np.stack([logits for _, logits in predicted.values()])).max(axis=1)


def _embed(features: np.ndarray, how: str) -> np.ndarray:
    if how == "pca" or len(features) < 10:
        return draw.principal_components(features)
    from sklearn.manifold import TSNE

    reduced = draw.principal_components(features, min(50, features.shape[1]))
    return TSNE(2, perplexity=min(30, len(features) // 4), init="pca", random_state=0).fit_transform(reduced)


def _drawn(keys: Sequence[str], count: int) -> list[int]:
    return sorted(sorted(range(len(keys)), key=lambda i: digest(keys[i]))[:count])

"""Pictures of Adapt Anything for the report: prompts, synthetic images, sure and unsure predictions,
features, confidences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard, Stage
from diffadapt.models.config import BackboneConfig
from diffadapt.stages.models import classifier_identity


@dataclass(frozen=True)
class AdaptationFigures(Stage):
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

    kind = "figures"
    fit_stage = True

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

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.tasks.classification.adaptation_figure_makers import make_figures

        return make_figures(self, job)


def first_of_classes(node: NodePlan, items: int) -> list[PlannedShard]:
    """The first shards of every range of classes until there are ``items`` rows; of a node without class
    ranges, evenly spread ones."""
    shards = list(node.shards)
    if all({"start", "first_class"} <= set(p.shard.params) for p in shards):
        order = sorted(shards, key=lambda p: (p.shard.params["start"], p.shard.params["first_class"]))
        first = [p for p in order if p.shard.params["start"] == order[0].shard.params["start"]]
    else:
        count = min(len(shards), 16)
        first = [shards[i * len(shards) // count] for i in range(count)]
        order = [*first, *(p for p in shards if p not in first)]
    chosen, total = [], 0
    for p in order:
        if total >= items and p not in first:
            break
        chosen.append(p)
        total += p.shard.items
    return chosen

"""Pictures for the report: before/after grids of alignment and projection, and Grad-CAM side by side (SDA
Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.identity import digest
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard, Stage
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.models import classifier_identity, classifier_revisions


@dataclass(frozen=True)
class Figures(Stage):
    """Reads a few shards of each image input (the first of each group) and the classifiers; makes PNG files
    and figures.json."""

    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int = 0
    pictures: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    columns: int = 6
    groups: int = 15

    kind = "figures"
    fit_stage = True
    trains = False

    def label(self) -> str:
        return "pictures"

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

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.tasks.classification.figure_makers import make_figures

        return make_figures(self, job)


def _first_of_groups(node: NodePlan, limit: int) -> list[PlannedShard]:
    seen: dict[str, PlannedShard] = {}
    for p in node.shards:
        seen.setdefault(p.shard.params.get("group", "all"), p)
    order = sorted(seen, key=lambda g: (digest(g), g))[:limit] if len(seen) > limit else list(seen)
    return [seen[g] for g in seen if g in order]

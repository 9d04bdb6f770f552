"""A frozen backbone and the head that was trained on its features, joined to one classifier that takes
images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.models.config import BackboneConfig
from diffadapt.stages.models import classifier_identity, classifier_revisions
from diffadapt.stages.roles import adapted


@dataclass(frozen=True)
class MergeHead(Stage):
    """Input: a fitted head. The result is a timm/HF folder whose logits on an image are the head's on its
    test features."""

    backbone: BackboneConfig = BackboneConfig()
    class_names: tuple[str, ...] = ()

    kind = "merged"
    fit_stage = True

    def label(self) -> str:
        return f"{self.backbone.name.rstrip('/').split('/')[-1]}-with-head"

    def identity(self) -> dict[str, Any]:
        fields = classifier_identity(self.backbone)
        for name in ("frozen", "weak_views", "strong_views"):
            fields.pop(name)
        return {"backbone": fields, "class_names": list(self.class_names)}

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.backbone, False)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.models.backbone import load_backbone
        from diffadapt.models.export import export_classifier
        from diffadapt.models.mlp_head import join, load_head

        folder = adapted(job.context)
        head, info = load_head(folder)
        body = load_backbone(self.backbone)
        names = self.class_names or tuple(info["label_names"])
        model, arch, args = join(
            body.module, body.arch, head, len(names), self.backbone.in_channels, body.model_args
        )
        if job.reporter.rank == 0:
            extra = {**info.get("diffadapt", {}), "backbone": f"{body.arch}, frozen ({body.revision})"}
            export_classifier(model, job.output, arch, replace(self.backbone, arch=arch), names, extra, args)
        return {"width": body.width, "parameters": sum(p.numel() for p in model.parameters())}

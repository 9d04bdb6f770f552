"""Stage 2: semi-supervised learning on the target, from stage 1's weights and pseudo-labels (Adapt Anything
section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.foreign import parse
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.stages.models import classifier_revisions
from diffadapt.stages.roles import SPLIT, adapted, row_inputs
from diffadapt.tasks.classification.adaptation_fit import AdaptationFit
from diffadapt.train.fit import Trained


@dataclass(frozen=True)
class FitSsl(AdaptationFit):
    """Inputs: the target's rows (images, or features where the backbone is frozen), a split, and stage 1's
    folder, unless ``bottleneck`` is given.

    The result is a folder of the kind and architecture of stage 1's. Labels of the target's rows are not
    looked at unless ``select`` is the oracle.
    """

    config: Any = SslConfig()
    bottleneck: int | None = None
    """The training starts from the backbone's own weights and a new head with a bottleneck of this width (0:
    none, but where the backbone is frozen), as stage 1 starts. None: from stage 1's folder."""

    kind = "ssl"
    images = 3.0  # a labelled one, a weak and a strong view of an unlabelled one

    def identity(self) -> dict[str, Any]:
        new = {} if self.bottleneck is None else {"bottleneck": self.bottleneck}
        return {**super().identity(), **new}

    def revisions(self) -> dict[str, str]:
        from_before = self.bottleneck is None or self.backbone.frozen
        return {} if from_before else classifier_revisions(self.backbone, False)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        config = self.config
        if config.chosen.ema >= 1:
            raise RecipeError(
                f"ssl.{config.method}.ema is {config.chosen.ema:g}, which never moves the averaged weights:"
                " it must be below 1 (0: no average)."
            )
        low, high = config.scale
        if not 0 < low <= high:
            raise RecipeError(
                f"ssl.scale is {low:g} {high:g}: give the smallest and the largest part of an image's area"
                " that a view shows, above 0 and in this order, such as 0.5 1."
            )
        if self.select.rule == "dev":
            raise RecipeError(
                "The selection rule 'dev' needs the labelled source, which stage 2 does not see: choose ensv,"
                " im or mixval."
            )
        return whole(inputs)

    def train(self, job: FitJob) -> Trained:
        import numpy as np

        from diffadapt.tasks.classification.semi_supervised import PseudoLabels, fit_ssl
        from diffadapt.tasks.classification.split import read_split

        config = self.config
        target, failures = self.views(job, row_inputs(job)[0], "target")
        split = read_split(job.context.fitted_by(SPLIT)[0])
        known = [(i, *split[key]) for i, key in enumerate(target.keys) if key in split]
        if not known:
            raise DataError(
                "No image of the target has a prediction of stage 1, so there is nothing to learn from."
            )
        labelled = PseudoLabels(
            np.asarray([i for i, _, good in known if good], np.int64),
            np.asarray([label for _, label, good in known if good], np.int64),
            np.asarray([i for i, _, good in known if not good], np.int64),
        )
        model, export = self._start(job) if self.bottleneck is None else self._anew(job, target)
        run = self.run(job, failures, **self.observers(job, target))
        scalars = fit_ssl(target, labelled, model, self.num_classes, config, run)
        return Trained(scalars, export, {"images": len(known)}, failures)

    def _start(self, job: FitJob) -> tuple[Any, Any]:
        """Stage 1's network, and a function of the metrics that writes the trained one as a folder of the
        same kind."""
        names, folder = self.names, adapted(job.context)
        if self.backbone.frozen:
            from diffadapt.models.mlp_head import load_head, save_head

            head, info = load_head(folder, job.context.device)
            before = dict(info.get("diffadapt") or {})
            return head, lambda metrics: save_head(
                job.output, head, info["width"], names, self._extra(before, metrics)
            )
        from diffadapt.models.classifier import load_classifier
        from diffadapt.models.export import export_classifier

        config = replace(self.backbone, name=folder, arch=None)
        loaded = load_classifier(config, self.num_classes, job.context.device)
        before = parse((Path(folder) / "config.json").read_bytes()).get("diffadapt") or {}
        inputs = replace(self.backbone, arch=loaded.arch)
        return loaded.model, lambda metrics: export_classifier(
            loaded.model, job.output, loaded.arch, inputs, names, self._extra(before, metrics)
        )

    def _anew(self, job: FitJob, target: Any) -> tuple[Any, Any]:
        """The same of a network that has seen nothing of the task: the backbone's own weights and a new
        head."""
        import torch
        from torch import nn

        from diffadapt.methods.uda.layers import flat
        from diffadapt.models.adaptation import bottleneck
        from diffadapt.models.mlp_head import join, save_head
        from diffadapt.tasks.classification.adaptation import FROZEN_BOTTLENECK

        names, frozen, middle = self.names, self.backbone.frozen, self.bottleneck or 0
        body = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            if not frozen:
                from diffadapt.models.backbone import load_backbone

                body = load_backbone(self.backbone)
            width = target.width if body is None else body.width
            middle = middle or (FROZEN_BOTTLENECK if frozen else 0)
            head = flat(bottleneck(width, middle), nn.Linear(middle or width, len(names)))
        if body is None:
            head = head.eval().to(job.context.device)
            return head, lambda metrics: save_head(job.output, head, width, names, self._extra({}, metrics))
        from diffadapt.models.export import export_classifier

        model, arch, args = join(
            body.module, body.arch, head, len(names), self.backbone.in_channels, body.model_args
        )
        before, inputs = {"backbone": f"{body.arch} ({body.revision})"}, replace(self.backbone, arch=arch)
        return model, lambda metrics: export_classifier(
            model, job.output, arch, inputs, names, self._extra(before, metrics), args
        )

    def _extra(self, before: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What the folder says about how it was made: stage 1's words and stage 2's."""
        mine: dict[str, Any] = {
            "stage2": self.config.identity(),
            "selection": self.select.rule,
            "confident": metrics["confident"],
            "unconfident": metrics["unconfident"],
        }
        if metrics.get("selection"):
            mine["chosen_step"] = metrics["selection"]["chosen_step"]
        if "oracle" in (before.get("selection"), self.select.rule):
            mine["selection"] = "oracle"
        return {**before, **mine}

"""Stage 2: semi-supervised learning on the target, from stage 1's weights and pseudo-labels (Adapt Anything
section 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.stages.roles import CLASSIFIER, HEAD, SPLIT, fitted_with, row_inputs
from diffadapt.tasks.classification.adaptation_fit import make_chooser, make_watcher, training_identity


@dataclass(frozen=True)
class FitSsl(Stage):
    """Inputs: the target's rows (images, or features where the backbone is frozen), a split, and stage 1's
    folder.

    The result is a folder of the kind and architecture of stage 1's. Labels of the target's rows are not
    looked at unless ``select`` is the oracle.
    """

    config: Any = SslConfig()
    backbone: BackboneConfig = BackboneConfig()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    select: SelectConfig = SelectConfig()

    kind = "ssl"
    fit_stage = True

    def label(self) -> str:
        return self.config.method

    def identity(self) -> dict[str, Any]:
        return training_identity(self)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        config = self.config
        if config.chosen.ema >= 1:
            raise RecipeError(
                f"ssl.{config.method}.ema is {config.chosen.ema:g}, which never moves the averaged weights:"
                " it must be below 1 (0: no average)."
            )
        if self.select.rule == "dev":
            raise RecipeError(
                "The selection rule 'dev' needs the labelled source, which stage 2 does not see: choose ensv,"
                " im or mixval."
            )
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        import numpy as np

        from diffadapt.tasks.classification.semi_supervised import fit_ssl
        from diffadapt.tasks.classification.split import read_split
        from diffadapt.tasks.classification.training_views import load_views
        from diffadapt.train.checkpoints import Checkpoints

        config, rank = self.config, job.reporter.rank
        target, failures = load_views(
            row_inputs(job)[0], job.read, self.backbone, config.augment, config.flip, what="target"
        )
        split = read_split(fitted_with(job, SPLIT)[0])
        known = [(i, *split[key]) for i, key in enumerate(target.keys) if key in split]
        if not known:
            raise DataError(
                "No image of the target has a prediction of stage 1, so there is nothing to learn from."
            )
        confident = np.asarray([i for i, _, good in known if good], np.int64)
        labels = np.asarray([label for _, label, good in known if good], np.int64)
        unconfident = np.asarray([i for i, _, good in known if not good], np.int64)
        model, export = self._start(job)
        metrics = fit_ssl(
            target,
            confident,
            labels,
            unconfident,
            model,
            self.num_classes,
            config,
            job.reporter,
            Checkpoints(job.checkpoints),
            chooser=make_chooser(self, job, target, None, self.num_classes),
            readers=0 if self.backbone.frozen or job.context.device == "cpu" else job.context.threads,
            watcher=make_watcher(self, job, target),
            until=job.until,
        )
        kept = {k: v for k, v in metrics.items() if k not in ("step_seconds", "resumed_from")}
        if rank == 0:
            export(kept)
        return {**kept, "images": len(known), "quarantined": [[f.key, f.reason] for f in failures]}

    def _start(self, job: FitJob) -> tuple[Any, Any]:
        """Stage 1's network, and a function of the metrics that writes the trained one as a folder of the
        same kind."""
        names = self.class_names or tuple(str(i) for i in range(self.num_classes))
        if self.backbone.frozen:
            from diffadapt.models.mlp_head import load_head, save_head

            head, info = load_head(fitted_with(job, HEAD)[0], job.context.device)
            before = dict(info.get("diffadapt") or {})
            return head, lambda metrics: save_head(
                job.output, head, info["width"], names, self._extra(before, metrics)
            )
        from diffadapt.models.classifier import load_classifier
        from diffadapt.models.export import export_classifier

        folder = fitted_with(job, CLASSIFIER)[0]
        config = replace(self.backbone, name=folder, arch=None)
        loaded = load_classifier(config, self.num_classes, job.context.device)
        before = json.loads((Path(folder) / CLASSIFIER).read_text(encoding="utf-8")).get("diffadapt") or {}
        inputs = replace(self.backbone, arch=loaded.arch)
        return loaded.model, lambda metrics: export_classifier(
            loaded.model, job.output, loaded.arch, inputs, names, self._extra(before, metrics)
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

"""Stage 1: unsupervised domain adaptation from the source to the unlabelled target (Adapt Anything section
3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError, RecipeError, WeightsError
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.methods.uda.base import Sizes
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.stages.models import (
    check_backbone,
    classifier_notes,
    classifier_revisions,
)
from diffadapt.stages.roles import kept_keys, row_inputs
from diffadapt.tasks.classification.adaptation_fit import AdaptationFit
from diffadapt.train.fit import Trained, too_few

VIT_MODULES = ("vision_transformer", "deit")
"""timm's modules whose networks are VisionTransformers."""


@dataclass(frozen=True)
class FitUda(AdaptationFit):
    """Inputs: source rows, target rows (images, or features where the backbone is frozen), and maybe a
    filter's decisions on the source.

    The result is a classifier folder, or a head folder where the backbone is frozen. The target's labels are
    not looked at unless ``select`` is the oracle.
    """

    config: Any = UdaConfig()

    kind = "uda"
    images = 2.0  # of source and target, whatever the method makes of them

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.backbone, self.backbone.frozen)

    def notes(self) -> tuple[str, ...]:
        of_method = self.config.chosen.notes(self.config.epochs, self.backbone.frozen)
        return (*classifier_notes(self.backbone, self.backbone.frozen), *of_method)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        config, method = self.config, self.config.chosen
        method.check(config.epochs)
        classes = self.num_classes or len(self.class_names)
        if classes < 2:
            raise RecipeError(
                "Adaptation needs at least two classes, but there"
                f" {'is one' if classes == 1 else 'are none'}: name more classes."
            )
        method.passes_with(config.sdat, config.method)
        if self.select.rule == "dev":
            raise RecipeError(
                "select.rule is 'dev', which weighs a model's errors on labelled source images that it was"
                " not trained on, and stage 1 trains on all of them: choose ensv, im or mixval."
            )
        if not self.backbone.frozen:
            check_backbone(self.backbone)
        if method.backbone_kind == "vit":
            self._demand_vit()
        return whole(inputs)

    def train(self, job: FitJob) -> Trained:
        from diffadapt.tasks.classification.adaptation import counted, demand_sets, fit_uda

        config, names = self.config, self.names
        source_files, target_files = row_inputs(job)[:2]
        kept = kept_keys(job.context)
        source, failed = self.views(job, source_files, "source", kept)
        target, also_failed = self.views(job, target_files, "target")
        demand_sets(source, target, len(names))
        counts = _demand_classes(source.labels, names, kept is not None)
        body, module, width = self._body(job, source)
        known = counted(config, config.chosen, Sizes(config.batch_size, len(source), len(target)))
        watching = replace(self, config=known).observers(job, target, source)
        run = self.run(job, [*failed, *also_failed], **watching)
        net, scalars = fit_uda(source, target, module, width, len(names), config, run)
        warnings = []
        if config.chosen.uses_target:
            warnings = too_few("The target has", len(target), "image", config.batch_size)
        return Trained(
            scalars,
            lambda metrics: self._write(job, net, body, width, metrics.get("selection")),
            {"images": len(source), "target_images": len(target), "source_per_class": counts},
            [*failed, *also_failed],
            warnings,
        )

    def _demand_vit(self) -> None:
        """Raise RecipeError where it can be known that the method cannot work inside the backbone."""
        what = f"The method {self.config.method!r} works inside a vision transformer"
        if self.backbone.frozen:
            raise RecipeError(
                f"{what}, so cached features will not do: set backbone.frozen to false or choose another"
                " method."
            )
        arch = _architecture(self.backbone)
        if arch is None:
            return
        import timm

        import diffadapt.models.cifar_resnet  # noqa: F401  # registers ours

        if timm.is_model(arch) and not timm.models.is_model_in_modules(arch, VIT_MODULES):
            raise RecipeError(
                f"{what}, but the backbone is {arch!r}: name a timm VisionTransformer, e.g."
                " deit_small_patch16_224, or choose another method."
            )

    def _body(self, job: FitJob, source: Any) -> tuple[Any, Any, int]:
        """(the loaded backbone, the module to train through, the width of its features); cached features pass
        an Identity."""
        import torch
        from torch import nn

        if self.backbone.frozen:
            return None, nn.Identity(), source.width
        from diffadapt.models.backbone import load_backbone

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            body = load_backbone(self.backbone, "cpu", drop_path=self.config.chosen.drop_path)
        return body, body.module, body.width

    def _write(self, job: FitJob, net: Any, body: Any, width: int, selection: Any) -> None:
        from diffadapt.methods.uda.layers import flat

        names, head = self.names, flat(net.bottleneck, net.method.exported_head(net))
        extra = {"stage1": self.config.identity(), "selection": self.select.rule}
        if selection:
            extra["chosen_step"] = selection["chosen_step"]
        if body is None:
            from diffadapt.models.mlp_head import save_head

            save_head(job.output, head, width, names, extra)
            return
        from diffadapt.models.export import export_classifier
        from diffadapt.models.mlp_head import join

        model, arch, args = join(
            net.backbone, body.arch, head, len(names), self.backbone.in_channels, body.model_args
        )
        extra["backbone"] = f"{body.arch} ({body.revision})"
        export_classifier(model, job.output, arch, replace(self.backbone, arch=arch), names, extra, args)


def _architecture(backbone: BackboneConfig) -> str | None:
    """The timm name of the backbone as far as it is known without loading it."""
    from diffadapt.models.classifier_source import folder_config, locate

    try:
        source = locate(backbone)
        if source.kind == "folder":
            return folder_config(source.place)["architecture"].split(".")[0]
    except WeightsError:
        return None  # planning says so elsewhere
    name = source.place if source.kind == "timm" else backbone.arch
    return name.split(".")[0] if name else None


def _demand_classes(labels: Any, names: tuple[str, ...], filtered: bool) -> dict[str, int]:
    """Source images a class. Raises DataError for classes without an image."""
    import numpy as np

    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        why = (
            "the filters left none of its images (lower their thresholds or generate more)"
            if filtered
            else "give images of it, or leave the class out"
        )
        raise DataError(f"The source has no image of {', '.join(map(repr, empty[:5]))}{more}: {why}.")
    return {name: int(count) for name, count in zip(names, counts, strict=True)}

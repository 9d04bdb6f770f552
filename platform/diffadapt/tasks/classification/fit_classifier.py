"""Training stage for classifiers: from scratch on source images, or fine-tuning on (aligned) synthetic ones
(SDA section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffadapt.core.artifact import Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.models import classifier_identity, classifier_revisions
from diffadapt.train.config import FitConfig


@dataclass(frozen=True)
class FitClassifier(Stage):
    """Inputs: images, then the fitted classifier to start from if ``init`` is 'fitted'. The result is a
    timm/HF folder."""

    config: FitConfig = FitConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int = 0
    init: Literal["scratch", "config", "fitted"] = "config"
    epoch_images: int = 0
    """Images that make an epoch; images are repeated or subsampled to it (0: as many as there are). Equalises
    the length of controls."""
    image_size: int = 256
    """Side to which images of other sizes are prepared before augmentation."""
    class_names: tuple[str, ...] = ()

    kind = "classifier"
    fit_stage = True

    def label(self) -> str:
        name = (
            self.classifier.arch
            if self.init == "scratch"
            else self.classifier.name.rstrip("/").split("/")[-1]
        )
        return f"{name}-{'source' if self.init == 'scratch' else 'finetuned'}"

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self, identity_only=True)
        fields["classifier"] = classifier_identity(self.classifier)
        return fields

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, self.init != "config")

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if (
            self.config.warmup_epochs > self.config.epochs
        ):  # known now; training would say so after days of synthesis
            raise RecipeError(
                f"The warm-up of {self.config.warmup_epochs} epochs is longer than the training of"
                f" {self.config.epochs}: lower warmup_epochs or raise epochs."
            )
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        import numpy as np
        import torch

        from diffadapt.data.prepare import prepare
        from diffadapt.models.classifier import create_model
        from diffadapt.models.export import export_classifier
        from diffadapt.stages.image_table import load_images
        from diffadapt.stages.models import open_classifier
        from diffadapt.tasks.classification.training import fit_classifier
        from diffadapt.train.checkpoints import Checkpoints

        files = [f for f in job.every_input() if not f.fitted]
        images, labels, failures = load_images(
            files, job.read, self.classifier.in_channels, lambda a: prepare(a, self.image_size)
        )
        if len(images) == 0:
            raise DataError("There are no readable images to train the classifier on.")
        if (labels < 0).any():
            raise DataError(
                "Training a classifier needs a label for every image: give a folder with one sub-folder a"
                " class."
            )
        device = job.context.device
        if self.init == "scratch":
            torch.manual_seed(self.config.seed)
            arch = self.classifier.arch or ""
            model = create_model(
                arch, self.num_classes, self.classifier.in_channels, self.config.drop_path
            ).to(device)
        else:
            loaded = open_classifier(
                self.classifier,
                job.context.fitted if self.init == "fitted" else {},
                self.num_classes,
                device,
                self.config.drop_path,
            )
            model, arch = loaded.model, loaded.arch
        if self.epoch_images and self.epoch_images != len(images):
            index = np.resize(
                np.random.default_rng(self.config.seed).permutation(len(images)), self.epoch_images
            )
            images, labels = _take(images, index), labels[index]
        given = labels if isinstance(images, np.ndarray) else None
        metrics = fit_classifier(
            model,
            images,
            self.config,
            job.reporter,
            Checkpoints(job.checkpoints),
            inputs=self.classifier,
            labels=given,
        )
        if job.reporter.rank == 0:
            config = replace(self.classifier, arch=arch)
            export_classifier(
                model,
                job.output,
                arch,
                config,
                self.class_names or [str(i) for i in range(self.num_classes)],
                {"training": to_dict(self.config, identity_only=True), "images": len(images)},
            )
        kept = {
            k: float(v)
            for k, v in metrics.items()
            if k not in ("step_seconds", "images_per_second", "resumed_from")
        }
        return {**kept, "images": len(images), "quarantined": [[f.key, f.reason] for f in failures]}


class _Take:
    """Chosen items of an indexable set, in order, repeats included."""

    def __init__(self, items: Any, index: Any):
        self.items, self.index = items, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Any:
        return self.items[int(self.index[i])]


def _take(images: Any, index: Any) -> Any:
    import numpy as np

    return images[index] if isinstance(images, np.ndarray) else _Take(images, index)

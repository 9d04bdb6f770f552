"""Training stage for classifiers: from scratch on source images, or fine-tuning on (aligned) synthetic ones
(SDA section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffadapt.core.artifact import Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.calls import STATES, of_classifier
from diffadapt.stages.models import classifier_identity, classifier_notes, classifier_revisions
from diffadapt.train.config import FitConfig
from diffadapt.train.fit import Fit, Trained


@dataclass(frozen=True)
class FitClassifier(Fit):
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

    def label(self) -> str:
        if self.init == "scratch":
            return f"{self.classifier.arch}-source"
        return f"{self.classifier.name.rstrip('/').split('/')[-1]}-finetuned"

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self, identity_only=True)
        fields["classifier"] = classifier_identity(self.classifier)
        return fields

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, self.init != "config", self.num_classes)

    def notes(self) -> tuple[str, ...]:
        return classifier_notes(self.classifier, self.init != "config")

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        # Known now; training would say so after days of synthesis.
        if self.config.warmup_epochs > self.config.epochs:
            raise RecipeError(
                f"The warm-up of {self.config.warmup_epochs} epochs is longer than the training of"
                f" {self.config.epochs}: lower warmup_epochs or raise epochs."
            )
        return whole(inputs)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        return of_classifier(
            self.classifier, self.num_classes or None, mode="training", precision=c.precision,
            batch=c.micro_batch or c.batch_size, states=STATES[c.optimizer],
        )  # fmt: skip

    def train(self, job: FitJob) -> Trained:
        import numpy as np

        from diffadapt.data.prepare import prepare
        from diffadapt.models.export import export_classifier
        from diffadapt.stages.image_table import Fixed, load_images
        from diffadapt.tasks.classification.training import fit_classifier

        files = [f for f in job.every_input() if not f.fitted]
        side, channels = self.image_size, self.classifier.in_channels
        prepared = Fixed(f"prepare-{side}", (side, side, channels), lambda a: prepare(a, side))
        images, labels, failures = load_images(files, job.read, channels, prepared, job.context.readers)
        if len(images) == 0:
            raise DataError("There are no readable images to train the classifier on.")
        if (labels < 0).any():
            raise DataError(
                "Training a classifier needs a label for every image: give a folder with one sub-folder a"
                " class."
            )
        model, arch = self._start(job)
        if self.epoch_images and self.epoch_images != len(images):
            order = np.random.default_rng(self.config.seed).permutation(len(images))
            index = np.resize(order, self.epoch_images)
            images, labels = _take(images, index), labels[index]
        given = labels if isinstance(images, np.ndarray) else None
        run = self.run(job, failures)
        scalars = fit_classifier(model, images, self.config, run, inputs=self.classifier, labels=given)

        def save(metrics: dict[str, Any]) -> None:
            names = self.class_names or [str(i) for i in range(self.num_classes)]
            how = {"training": to_dict(self.config, identity_only=True), "images": len(images)}
            export_classifier(model, job.output, arch, replace(self.classifier, arch=arch), names, how)

        return Trained(scalars, save, {"images": len(images)}, failures)

    def _start(self, job: FitJob) -> tuple[Any, str]:
        """The network to train and its architecture."""
        import torch

        from diffadapt.models.classifier import create_model
        from diffadapt.stages.models import open_classifier

        config, device = self.classifier, job.context.device
        if self.init == "scratch":
            torch.manual_seed(self.config.seed)
            arch = config.arch or ""
            model = create_model(arch, self.num_classes, config.in_channels, self.config.drop_path)
            return model.to(device), arch
        fitted = job.context.fitted if self.init == "fitted" else {}
        loaded = open_classifier(config, fitted, self.num_classes, device, self.config.drop_path)
        return loaded.model, loaded.arch


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

"""What the training stages of adaptation (stage 1 and stage 2) share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.core.artifact import Failure
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError
from diffadapt.core.flops import Call
from diffadapt.core.stage import FitJob, InputFile, NodePlan
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.stages.calls import STATES, of_classifier
from diffadapt.stages.models import classifier_identity
from diffadapt.train.fit import Fit

if TYPE_CHECKING:
    from diffadapt.train.views import Views


@dataclass(frozen=True)
class AdaptationFit(Fit):
    """A training of one method of a family (UDA, SSL) on views of the target."""

    config: Any = None
    backbone: BackboneConfig = BackboneConfig()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    select: SelectConfig = SelectConfig()

    def label(self) -> str:
        return self.config.method

    def identity(self) -> dict[str, Any]:
        """The chosen method's settings, the backbone's, the classes, and how the epoch is chosen."""
        select = to_dict(self.select, identity_only=True) if self.select.rule != "last" else {"rule": "last"}
        backbone = classifier_identity(self.backbone)
        # Earlier the preset decided on the view by which epochs are chosen and pairs are made.
        before = "squash" if self.config.augment in ("uda", "crop", "center") else "center"
        backbone.pop("crop_mode", None)
        if self.backbone.crop_mode != before:
            backbone["crop_mode"] = self.backbone.crop_mode
        return {
            "config": self.config.identity(),
            "backbone": backbone,
            "classes": list(self.class_names) or self.num_classes,
            "select": select,
        }

    images: ClassVar[float] = 1.0
    """Images that a step trains on for each of its ``batch_size``."""

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        """A frozen backbone's head costs next to nothing."""
        if self.backbone.frozen:
            return ()
        c = self.config
        return of_classifier(
            self.backbone, self.num_classes or None, passes=self.images, mode="training",
            precision=c.precision, batch=round(self.images * c.batch_size), states=STATES["sgd"],
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, their numbers where there are none."""
        return self.class_names or tuple(str(i) for i in range(self.num_classes))

    def views(
        self, job: FitJob, files: Sequence[InputFile], what: str, keep: Collection[str] | None = None
    ) -> tuple[Views, list[Failure]]:
        """The views of ``files`` in order and what could not be read: cached features where the backbone is
        frozen, else images. ``keep``: only the items of these keys. Raises DataError when nothing is left;
        ``what`` ('target') says of which images."""
        config, backbone = self.config, self.backbone
        if backbone.frozen:
            from diffadapt.tasks.classification.feature_table import load_features

            features = load_features(files, job.read, keep)
            return features, features.failures
        from diffadapt.models.preprocess import normalise
        from diffadapt.stages.image_table import load_keyed_images
        from diffadapt.tasks.classification.augment_views import make_views, preparation
        from diffadapt.train.views import ImageViews

        prepare = preparation(config.augment, backbone)
        images, labels, keys, failures = load_keyed_images(
            files, job.read, backbone.in_channels, prepare, keep, job.context.readers
        )
        if not keys:
            why = f"; the first: {failures[0].key}: {failures[0].reason}" if failures else ""
            raise DataError(
                f"There are no readable {what} images to train on: every one is unreadable or was filtered"
                f" out{why}."
            )
        augments = make_views(config.augment, backbone, config.flip, config.scale)
        return ImageViews(images, labels, keys, augments, lambda x: normalise(x, backbone)), failures

    def observers(self, job: FitJob, target: Any, source: Any = None) -> dict[str, Any]:
        """Whoever picks the epoch (train/candidates.py; None keeps the last) and whoever scores the target's
        predictions after every epoch (train/watch.py, or None). Only the oracle is shown the target's
        labels."""
        from diffadapt.train.candidates import Chooser, TargetJudge, candidate_steps
        from diffadapt.train.watch import Watcher

        select, config, device = self.select, self.config, job.context.device
        chooser = watcher = None
        if select.rule != "last":
            labels = target.labels if select.rule == "oracle" else None
            judge = TargetJudge(
                select.rule, target, source, len(self.names), device, labels, seed=config.seed
            )
            steps = candidate_steps(config.epochs, config.steps_per_epoch, select.candidates)
            chooser = Chooser(job.checkpoints, steps, judge)
        if select.watch:
            labels = target.labels if select.watch == "oracle" else None
            watcher = Watcher(select.watch, target, config.steps_per_epoch, device, labels)
        return {
            "chooser": chooser,
            "watcher": watcher,
            **({"readers": 0} if self.backbone.frozen else {}),
        }

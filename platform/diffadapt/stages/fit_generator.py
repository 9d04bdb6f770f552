"""Training stage for diffusion models: class-conditional (DiT) or unconditional (UNet), on labelled source
images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.train.config import DiffusionFitConfig


@dataclass(frozen=True)
class FitGenerator(Stage):
    """Input: images. ``num_classes`` 0: unconditional. The result is a diffusers folder."""

    config: DiffusionFitConfig = DiffusionFitConfig()
    num_classes: int = 0
    image_size: int = 256
    channels: int = 3
    class_names: tuple[str, ...] = ()

    kind = "generator"
    fit_stage = True

    def label(self) -> str:
        return self.config.architecture

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        import numpy as np

        from diffadapt.data.prepare import prepare
        from diffadapt.stages.image_table import load_images
        from diffadapt.train.checkpoints import Checkpoints
        from diffadapt.train.diffusion import train_diffusion
        from diffadapt.train.diffusion_batches import ArrayImages

        images, labels, failures = load_images(
            job.every_input(), job.read, self.channels, lambda a: prepare(a, self.image_size)
        )
        if len(images) == 0:
            raise DataError("There are no readable images to train the generator on: check --source.path.")
        if self.num_classes and (labels < 0).any():
            raise DataError(
                "Training a conditional generator needs a label for every image: give a folder with one"
                " sub-folder a class."
            )
        source = ArrayImages(images, labels) if isinstance(images, np.ndarray) else images
        metrics = train_diffusion(
            source,
            self.config,
            self.num_classes or None,
            job.reporter,
            Checkpoints(job.checkpoints),
            job.output,
            class_names=self.class_names or None,
            log_dir=job.log_dir,
        )
        return {
            **_plain(metrics),
            "images": len(images),
            "quarantined": [[f.key, f.reason] for f in failures],
        }


def _plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scalars without timings, so that equal work has equal files."""
    return {
        k: float(v)
        for k, v in metrics.items()
        if k not in ("step_seconds", "images_per_second", "resumed_from")
    }

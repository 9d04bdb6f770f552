"""Training stage for diffusion models: class-conditional (DiT) or unconditional (UNet), on labelled source
images."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.errors import DataError
from diffadapt.core.stage import FitJob
from diffadapt.train.config import DiffusionFitConfig
from diffadapt.train.fit import Fit, Trained


@dataclass(frozen=True)
class FitGenerator(Fit):
    """Input: images. ``num_classes`` 0: unconditional. The result is a diffusers folder."""

    config: DiffusionFitConfig = DiffusionFitConfig()
    num_classes: int = 0
    image_size: int = 256
    channels: int = 3
    class_names: tuple[str, ...] = ()

    kind = "generator"

    def label(self) -> str:
        return self.config.architecture

    def train(self, job: FitJob) -> Trained:
        import numpy as np

        from diffadapt.data.prepare import prepare
        from diffadapt.stages.image_table import load_images
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
        scalars = train_diffusion(
            source,
            self.config,
            self.num_classes or None,
            self.run(job, failures),
            job.output,
            class_names=self.class_names or None,
            log_dir=job.log_dir,
        )
        # The training wrote the folder itself, before its workers part.
        return Trained(scalars, lambda metrics: None, {"images": len(images)}, failures)

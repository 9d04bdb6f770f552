"""Training stage for diffusion models: class-conditional (DiT) or unconditional (UNet), on labelled source
images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, WeightsError
from diffadapt.core.flops import Call, Network
from diffadapt.core.stage import FitJob, NodePlan
from diffadapt.models.architectures import component
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

    def network(self) -> Network:
        """The network that it trains; ``latent`` weights decide their own channels and size."""
        config, size, channels = self.config, self.image_size, self.channels
        side = config.native_size or size
        if config.latent:
            vae = component(config.latent, "vae") or component(config.latent, "")
            if vae is None:
                raise WeightsError(f"The autoencoder {config.latent!r} has no configuration at hand.")
            side //= 2 ** (len(vae["block_out_channels"]) - 1)
            channels = int(vae["latent_channels"])
        shape = {
            k: v
            for k, v in to_dict(config).items()
            if k
            in (
                "architecture",
                "channels",
                "layers_per_block",
                "attention_levels",
                "patch_size",
                "space_to_depth",
                "learn_sigma",
            )
        }
        return Network.of(
            "diffadapt.train.diffusion_network:shell", f"{config.architecture} of the recipe",
            config=shape, channels=channels, size=side, classes=self.num_classes,
        )  # fmt: skip

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call]:
        c = self.config
        batch = c.micro_batch or c.batch_size
        return (Call(self.network(), 1.0, "training", c.precision, batch, states=4),)

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

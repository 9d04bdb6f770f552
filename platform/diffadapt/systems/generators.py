"""Training of a domain's generators as a recipe type: a conditional and an unconditional diffusion model on
the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.data.config import DataConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.fit_generator import FitGenerator
from diffadapt.stages.images import Images, cached_source
from diffadapt.train.config import DiffusionFitConfig


@dataclass(frozen=True)
class Generators:
    """Both results are diffusers folders; ``diffadapt export`` copies them out of the store."""

    data: DataConfig = DataConfig(image_size=64)
    conditional: DiffusionFitConfig = DiffusionFitConfig(
        architecture="dit", channels=(6, 64, 12), patch_size=2, steps=100_000, ema_decay=0.9999
    )
    unconditional: DiffusionFitConfig = DiffusionFitConfig(
        architecture="unet", channels=(128, 256, 256), steps=100_000
    )
    train: tuple[str, ...] = ("conditional", "unconditional")
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("data.path",),
        "seed": ("seed", "conditional.seed", "unconditional.seed"),
    }

    def pipeline(self) -> Pipeline:
        """Images -> generator and unconditional. The same stages as in an SDA recipe with weights 'train', so
        both share them."""
        if not self.data.path:
            raise RecipeError(
                "The recipe has no images to train on: give --data with a folder of one sub-folder a class."
            )
        names = cached_source(self.data).class_names
        nodes = [Node("source_images", Images(self.data))]
        if "conditional" in self.train:
            if not names:
                raise RecipeError(
                    "A conditional generator needs classes: give a folder with one sub-folder a class, or"
                    " --train unconditional."
                )
            nodes.append(
                Node(
                    "generator",
                    FitGenerator(
                        self.conditional, len(names), self.data.image_size, self.data.channels, names
                    ),
                    ("source_images",),
                )
            )
        if "unconditional" in self.train:
            nodes.append(
                Node(
                    "unconditional",
                    FitGenerator(self.unconditional, 0, self.data.image_size, self.data.channels),
                    ("source_images",),
                )
            )
        return Pipeline(tuple(nodes), (), names, {n.name: n.name for n in nodes[1:]})

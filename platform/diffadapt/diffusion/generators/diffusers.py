"""Weights of diffusers pipelines: a folder, a hub id or ``embedded:<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.diffusion.generators.base import Generator
from diffadapt.diffusion.generators.config import SynthConfig, TextToImageConfig
from diffadapt.diffusion.generators.pipeline_index import (
    at_hand,
    check_settings,
    demand_files,
    dit_classes,
    dit_index,
    pipeline_index,
)
from diffadapt.diffusion.given import demand_labels, demand_latents, look_at_parts
from diffadapt.diffusion.translation.checks import check_weights
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.weights import revision, weights_label

if TYPE_CHECKING:
    from diffadapt.diffusion.generators.base import FromLabels, FromPrompts, FromScenes, Images


@dataclass(frozen=True)
class Diffusers(Generator):
    """``address`` is where the weights are."""

    elsewhere: ClassVar[bool] = False

    def revision(self) -> str:
        return revision(self.address)

    @property
    def label(self) -> str:
        return weights_label(self.address)

    def check(self, config: Any) -> None:
        if isinstance(config, TextToImageConfig):
            index = pipeline_index(self.address) if at_hand(self.address) else None
            check_settings(config, index)
            if index is not None:
                unused = () if config.safety_checker else ("safety_checker", "feature_extractor")
                demand_files(self.address, index, config.variant, "generator.variant", unused)
                look_at_parts(self.address, index.components, config.variant, unused)
        elif isinstance(config, SynthConfig):
            if at_hand(self.address) and (index := dit_index(self.address)) is not None:
                demand_files(self.address, index, config.variant, "synth.variant", ("scheduler",))
                if parts := look_at_parts(self.address, index.components, config.variant):
                    demand_latents(self.address, parts["transformer"].in_channels, parts.get("vae"))
        elif isinstance(config, TransferConfig):
            check_weights(config, pipeline_index(self.address))

    def check_classes(self, config: Any, num_classes: int) -> None:
        if at_hand(self.address) and (has := dit_classes(self.address)) is not None:
            demand_labels(config.weights, has, num_classes)

    def from_prompts(self, config: Any, device: str) -> FromPrompts:
        from diffadapt.diffusion.generators.text_to_image import load_text_to_image

        return load_text_to_image(replace(config, weights=self.address), device).generate

    def from_labels(self, config: Any, device: str, num_classes: int) -> FromLabels:
        from diffadapt.diffusion.generators.dit import load_generator

        generator = load_generator(self.address, device, config.precision, config.compile, config.variant)
        demand_labels(config.weights, generator.num_classes, num_classes)

        def sample(labels: Sequence[int], seeds: Sequence[int]) -> Images:
            images = generator.sample(labels, seeds, config)
            return list(images.permute(0, 2, 3, 1).contiguous().numpy())

        return sample

    def from_scenes(self, config: Any, device: str, classes: Any) -> FromScenes:
        from diffadapt.diffusion.translation.pipeline import load_scene_transfer

        return load_scene_transfer(replace(config, weights=self.address), classes, device).transfer

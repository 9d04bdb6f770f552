"""Training of the small text-to-image model and CLIP model that are shipped, as a recipe type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.ranges import Seed
from diffadapt.run.runner import ExecutionConfig
from diffadapt.worlds.config import AutoencoderFitConfig, ClipFitConfig, TextToImageFitConfig
from diffadapt.worlds.glyphs.drawing import GlyphConfig
from diffadapt.worlds.glyphs.fit import FitGlyphAutoencoder, FitGlyphClip, FitTextToImage


@dataclass(frozen=True)
class Glyphs:
    """``diffadapt export`` copies ``generator`` (a StableDiffusionPipeline folder) and ``clip`` (a CLIPModel
    folder) out of the store."""

    glyphs: GlyphConfig = GlyphConfig()
    clip: ClipFitConfig = ClipFitConfig()
    vae: AutoencoderFitConfig = AutoencoderFitConfig()
    generator: TextToImageFitConfig = TextToImageFitConfig()
    seed: Seed = 0
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "seed": ("seed", "glyphs.seed", "clip.seed", "vae.seed", "generator.seed"), "size": ("glyphs.size",),
    }  # fmt: skip

    def pipeline(self) -> Pipeline:
        """clip and vae from drawn glyphs; generator from both and the same glyphs."""
        nodes = (
            Node("clip", FitGlyphClip(self.glyphs, self.clip)),
            Node("vae", FitGlyphAutoencoder(self.glyphs, self.vae)),
            Node("generator", FitTextToImage(self.glyphs, self.generator), ("clip", "vae")),
        )
        return Pipeline(nodes, (), (), {node.name: node.name for node in nodes})

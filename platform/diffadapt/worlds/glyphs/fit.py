"""Fit stages that make a text-to-image model from drawn glyphs: a CLIP model, an autoencoder, the pipeline on
top of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.train.fit import Fit, Trained
from diffadapt.worlds.config import AutoencoderFitConfig, ClipFitConfig, TextToImageFitConfig
from diffadapt.worlds.glyphs.drawing import GlyphConfig, fonts_revision


@dataclass(frozen=True)
class _GlyphFit(Fit):
    data: GlyphConfig = GlyphConfig()

    def revisions(self) -> dict[str, str]:
        return {"fonts": fonts_revision(self.data.fonts)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if self.data.size % 2 or self.data.size < 8:
            raise RecipeError(f"glyphs.size is {self.data.size} but must be even and at least 8.")
        shard = whole(inputs)[0]
        return [Shard(shard.key, shard.params, shard.inputs, self.data.examples)]

    def glyphs(self) -> Any:
        from diffadapt.worlds.batches import CaptionedImages
        from diffadapt.worlds.glyphs.drawing import GlyphSet

        return CaptionedImages(*GlyphSet(self.data).arrays())

    def trained(self, scalars: Mapping[str, float], card: Callable[..., str] | None, job: FitJob) -> Trained:
        """The trainings write their folders themselves; ``card(data, config, metrics)`` is added."""

        def save(metrics: dict[str, Any]) -> None:
            if card is not None:
                text = card(self.data, self.config, metrics)
                (Path(job.output) / "README.md").write_text(text, encoding="utf-8")

        return Trained(scalars, save, {"images": self.data.examples})


@dataclass(frozen=True)
class FitGlyphClip(_GlyphFit):
    """No input. The result is a CLIPModel folder with tokenizer and image processor."""

    config: ClipFitConfig = ClipFitConfig()

    kind = "clip"

    def train(self, job: FitJob) -> Trained:
        from diffadapt.worlds.contrastive import train_clip
        from diffadapt.worlds.glyphs.captions import vocabulary
        from diffadapt.worlds.glyphs.cards import clip_card

        run = self.run(job)
        scalars = train_clip(
            self.glyphs(), vocabulary(), self.config, run.reporter, run.checkpoints, job.output
        )
        return self.trained(scalars, clip_card, job)


@dataclass(frozen=True)
class FitGlyphAutoencoder(_GlyphFit):
    """No input. The result is an AutoencoderKL folder."""

    config: AutoencoderFitConfig = AutoencoderFitConfig()

    kind = "autoencoder"

    def train(self, job: FitJob) -> Trained:
        from diffadapt.worlds.vae import train_autoencoder

        run = self.run(job)
        scalars = train_autoencoder(self.glyphs(), self.config, run.reporter, run.checkpoints, job.output)
        return self.trained(scalars, None, job)


@dataclass(frozen=True)
class FitTextToImage(_GlyphFit):
    """Inputs: a fitted CLIP model and a fitted autoencoder. The result is a StableDiffusionPipeline
    folder."""

    config: TextToImageFitConfig = TextToImageFitConfig()

    kind = "text-to-image"

    def train(self, job: FitJob) -> Trained:
        from diffadapt.worlds.glyphs.cards import generator_card
        from diffadapt.worlds.glyphs.training import train_text_to_image

        (clip,), (vae,) = job.context.fitted_by("clip"), job.context.fitted_by("autoencoder")
        run = self.run(job)
        scalars = train_text_to_image(
            self.glyphs(), clip, vae, self.config, run.reporter, run.checkpoints, job.output
        )
        return self.trained(scalars, generator_card, job)

"""Class-conditional synthesis settings (SDA section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.config import Precision, added, by_device, execution
from diffadapt.core.ranges import AtLeast, Between, Fraction, Natural, NonNegative, Positive, Steps


@dataclass(frozen=True)
class SynthConfig:
    weights: str = "facebook/DiT-XL-2-256"
    """A DiTPipeline folder or hub id, ``embedded:digits-dit``, or ``train`` (train one on the source images).
    """
    variant: str = added("")
    """Which of a folder's or repository's weight files, where there are several or only such: 'fp16' for
    diffusion_pytorch_model.fp16.safetensors."""
    images_per_class: Positive = 50
    guidance: Annotated[float, AtLeast(1)] = 1.0
    """Classifier-free guidance; at 1.0 the null half is never computed."""
    steps: Steps = 250
    sampler: Literal["ddpm", "ddim", "dpmsolver++"] = "ddpm"
    guide_channels: Literal["first3", "all"] = "first3"
    """Which latent channels guidance acts on; the original DiT guides the first three."""
    output: Literal["truncate", "round"] = "truncate"
    """uint8 = truncate(127.5 x + 128), as the DiT authors store images, or rounding to nearest."""
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    images_per_shard: Positive = 1
    """Consecutive images of each class in one shard."""
    classes_per_shard: Positive = 64
    """Consecutive classes in one shard; a shard has images_per_shard x classes_per_shard images."""
    batch_size: Positive = execution(64)
    compile: bool | None = execution(None)
    """torch.compile; None: on CUDA."""


@dataclass(frozen=True)
class TextToImageConfig:
    weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Any diffusers text-to-image pipeline, as folder or hub id; ``embedded:glyphs`` (shipped, draws digits
    and letters)."""
    variant: str = added("")
    """Which of a folder's or repository's weight files, where there are several or only such: 'fp16' for
    diffusion_pytorch_model.fp16.safetensors."""
    images_per_class: Positive = 200
    guidance: NonNegative = 2.0
    """Classifier-free guidance; about 2 makes better training data than the usual 7.5 (StableRep, Scaling
    Laws of Synthetic Images)."""
    steps: Steps = 50
    scheduler: Literal[
        "pipeline", "ddim", "ddpm", "euler", "euler_ancestral", "dpmsolver++", "unipc", "lcm"
    ] = "pipeline"
    """pipeline: the one that the weights name."""
    size: Natural = 0
    """Side of the generated image in pixels; 0: the pipeline's own."""
    store_size: Natural = 0
    """Side of the stored image (antialiased); 0: as generated."""
    negative_prompt: str = ""
    safety_checker: bool = False
    """Run the pipeline's safety checker; images that it blocks are set apart, never stored as black."""
    precision: Precision = by_device("bf16", before="fp16")
    """auto: bf16 on CUDA, fp32 on a CPU, where fp16 falls back to fp32 too and that is said in the log."""
    images_per_shard: Positive = 10
    """Consecutive images of each class in one shard."""
    classes_per_shard: Positive = 8
    batch_size: Positive = execution(8)
    compile: bool | None = execution(None)
    """torch.compile; None: on CUDA."""


@dataclass(frozen=True)
class FilterConfig:
    """What is left out of the synthetic images before training. Everything is off but blank images."""

    blank: bool = True
    """Images of (nearly) one grey level or colour."""
    blank_std: NonNegative = 2.0
    """Standard deviation of the grey levels (0..255) below which an image is blank."""
    near_duplicates: Annotated[int, Between(-1, 64)] = -1
    """Largest Hamming distance of 64-bit perceptual hashes at which the later of two images of a class is
    left out; -1: keep all."""
    clip: str = ""
    """CLIP weights (folder or hub id): keep images whose own-class probability exceeds ``clip_threshold``;
    empty: no CLIP filter."""
    clip_threshold: Fraction = 0.0
    """0: one over the number of classes, the published form."""
    clip_template: str = "a photo of a {category}"

    @property
    def chooses(self) -> bool:
        """Whether images that are pictures may be left out, so that results with and without are worth
        comparing."""
        return bool(self.clip) or self.near_duplicates >= 0

    @property
    def active(self) -> bool:
        """Whether anything is filtered at all."""
        return self.blank or self.chooses

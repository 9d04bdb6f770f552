"""Settings for training a text-to-image model from nothing: a CLIP model, an autoencoder, a denoising
network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.config import execution
from diffadapt.core.ranges import AtLeast, Fraction, Natural, NonNegative, Positive, Steps


@dataclass(frozen=True)
class ClipFitConfig:
    """Contrastive training (Radford et al. 2021) of a small CLIP model; its text encoder then conditions the
    generator."""

    steps: Positive = 1000
    batch_size: Annotated[int, AtLeast(2)] = 256
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.01
    warmup_steps: Natural = 50
    width: Positive = 64
    layers: Positive = 2
    heads: Positive = 4
    patch_size: Positive = 4
    max_words: Annotated[int, AtLeast(3)] = 40
    """Tokens that a prompt may have, the two marks included; longer prompts are cut."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: Natural = 0
    checkpoint_every: Positive = execution(100)


@dataclass(frozen=True)
class AutoencoderFitConfig:
    """A KL autoencoder (Rombach et al. 2022, section 3.1); each width after the first halves the side."""

    steps: Positive = 500
    batch_size: Positive = 128
    lr: NonNegative = 2e-3
    warmup_steps: Natural = 50
    channels: tuple[Positive, ...] = (16, 32)
    latent_channels: Positive = 4
    kl_weight: NonNegative = 1e-4
    """Of the divergence per latent value beside the squared error per pixel value in [-1, 1]."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: Natural = 0
    checkpoint_every: Positive = execution(100)


@dataclass(frozen=True)
class TextToImageFitConfig:
    """A latent diffusion model: v-prediction on a schedule of zero terminal SNR (Lin et al. 2024), frozen
    text encoder."""

    steps: Positive = 1600
    batch_size: Positive = 128
    lr: NonNegative = 2e-3
    weight_decay: NonNegative = 0.0
    warmup_steps: Natural = 100
    ema_decay: Fraction = 0.995
    clip_norm: Annotated[float, AtLeast(1e-09)] = 1.0
    prompt_dropout: Fraction = 0.1
    """Probability that a caption becomes the empty prompt, for classifier-free guidance."""
    channels: tuple[Positive, ...] = (48, 72)
    """Widths by level; all levels but the first have cross-attention."""
    heads: Positive = 4
    groups: Positive = 8
    sampling_steps: Steps = 10
    """Recorded in the model card as the number of steps that the model was looked at with."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: Natural = 0
    checkpoint_every: Positive = execution(100)

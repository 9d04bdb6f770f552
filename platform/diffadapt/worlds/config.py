"""Settings for training a text-to-image model from nothing: a CLIP model, an autoencoder, a denoising
network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution


@dataclass(frozen=True)
class ClipFitConfig:
    """Contrastive training (Radford et al. 2021) of a small CLIP model; its text encoder then conditions the
    generator."""

    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    width: int = 64
    layers: int = 2
    heads: int = 4
    patch_size: int = 4
    max_words: int = 40
    """Tokens that a prompt may have, the two marks included; longer prompts are cut."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: int = 0
    checkpoint_every: int = execution(100)


@dataclass(frozen=True)
class AutoencoderFitConfig:
    """A KL autoencoder (Rombach et al. 2022, section 3.1); each width after the first halves the side."""

    steps: int = 500
    batch_size: int = 128
    lr: float = 2e-3
    warmup_steps: int = 50
    channels: tuple[int, ...] = (16, 32)
    latent_channels: int = 4
    kl_weight: float = 1e-4
    """Of the divergence per latent value beside the squared error per pixel value in [-1, 1]."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: int = 0
    checkpoint_every: int = execution(100)


@dataclass(frozen=True)
class TextToImageFitConfig:
    """A latent diffusion model: v-prediction on a schedule of zero terminal SNR (Lin et al. 2024), frozen
    text encoder."""

    steps: int = 1600
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.0
    warmup_steps: int = 100
    ema_decay: float = 0.995
    clip_norm: float = 1.0
    prompt_dropout: float = 0.1
    """Probability that a caption becomes the empty prompt, for classifier-free guidance."""
    channels: tuple[int, ...] = (48, 72)
    """Widths by level; all levels but the first have cross-attention."""
    heads: int = 4
    groups: int = 8
    sampling_steps: int = 10
    """Recorded in the model card as the number of steps that the model was looked at with."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    seed: int = 0
    checkpoint_every: int = execution(100)

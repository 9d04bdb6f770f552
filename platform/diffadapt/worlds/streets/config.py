"""Settings for training a small layout-conditional generator from nothing: autoencoder, text encoder, U-Net
and ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffadapt.core.config import execution
from diffadapt.core.errors import RecipeError
from diffadapt.worlds.config import AutoencoderFitConfig

SUFFIX, NEGATIVE = ", best quality", "lower quality, worst quality"
"""What half of the captions end in, and the prompt that stands for no caption beside the empty one (as
TransferConfig has them)."""


@dataclass(frozen=True)
class LayoutFitConfig:
    """A latent diffusion model (noise prediction on Stable Diffusion's schedule) whose ControlNet sees the
    label map's colours."""

    size: int = 0
    """Short side in pixels that images (area) and colour maps (area) are brought to; 0: as they are."""
    crop: tuple[int, int] = (0, 0)
    """(height, width) of the crops that are trained on, after ``size``; (0, 0): whole images, all of one
    size."""
    flip: bool = True
    """Half of the examples are mirrored."""
    variants: int = 4
    """Relit copies of a scene for each appearance, every one with its own light."""
    vae: AutoencoderFitConfig = AutoencoderFitConfig(
        steps=600, batch_size=16, lr=3e-3, channels=(32, 32), latent_channels=6, kl_weight=1e-5
    )
    """Each width after the first halves the side; all widths are equal."""
    steps: int = 2500
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 100
    ema_decay: float = 0.995
    clip_norm: float = 1.0
    prompt_dropout: float = 0.15
    """Probability that a caption becomes the empty or the negative prompt, for classifier-free guidance."""
    layout_dropout: float = 0.1
    """Probability that an example is shown without its layout, so that the U-Net also works alone."""
    loss_weight: float = 5.0
    """Largest weight of an example: the error of the noise counts 1 / alpha_bar(t) times, at most this (Hang
    et al. 2023)."""
    low_noise: float = 0.5
    """Largest amplitude of the noise's low-frequency part beside the white one. It hides an image's overall
    light at high noise levels, so that the caption decides about it, not what is left of the source image
    (offset noise)."""
    latent_scale: float = 0.5
    """Standard deviation of the latents that are denoised: below 1, a level of the schedule hides more (Chen
    2023)."""
    channels: tuple[int, ...] = (32, 48, 64, 64)
    """Widths of U-Net and ControlNet by level; the deepest alone attends, so that any size can be generated.
    """
    heads: int = 4
    groups: int = 4
    text_width: int = 64
    text_layers: int = 1
    max_words: int = 16
    """Tokens that a prompt may have, the two marks included; longer prompts are cut."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of training."""
    seed: int = 0
    checkpoint_every: int = execution(200)

    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {
        "size": (0, None),
        "crop": (0, None),
        "variants": (1, None),
        "steps": (1, None),
        "batch_size": (1, None),
        "lr": (0, None),
        "weight_decay": (0, None),
        "warmup_steps": (0, None),
        "ema_decay": (0, 1),
        "clip_norm": (1e-9, None),
        "prompt_dropout": (0, 1),
        "layout_dropout": (0, 1),
        "loss_weight": (1, None),
        "low_noise": (0, None),
        "latent_scale": (1e-3, None),
        "channels": (1, None),
        "heads": (1, None),
        "groups": (1, None),
        "text_width": (1, None),
        "text_layers": (1, None),
        "max_words": (4, None),
        "seed": (0, None),
        "checkpoint_every": (1, None),
    }

    @property
    def unit(self) -> int:
        """What both sides of an image must be multiples of: the reductions of autoencoder and U-Net."""
        return 2 ** (len(self.vae.channels) - 1 + len(self.channels) - 1)


def check_layout(config: LayoutFitConfig) -> None:
    """RecipeError for widths or crops that the networks cannot have."""
    if (
        len(config.channels) < 2
        or any(c % config.groups for c in config.channels)
        or config.channels[-1] % config.heads
    ):
        raise RecipeError(
            f"channels {config.channels} need at least two levels, multiples of groups ({config.groups}), the"
            f" last also of heads ({config.heads})."
        )
    if any(c % 8 or c != config.vae.channels[0] for c in config.vae.channels):
        raise RecipeError(f"vae.channels {config.vae.channels} must be one and the same multiple of 8.")
    if config.text_width % config.heads:
        raise RecipeError(f"text_width {config.text_width} must be a multiple of heads ({config.heads}).")
    if any(side % config.unit for side in config.crop) or (0 in config.crop and config.crop != (0, 0)):
        raise RecipeError(
            f"crop {config.crop} must be multiples of {config.unit}, by which the networks reduce an image,"
            " or (0, 0)."
        )

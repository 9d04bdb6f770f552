"""Settings for training a small layout-conditional generator from nothing: autoencoder, text encoder, U-Net
and ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import AtLeast, Fraction, Natural, NonNegative, Positive
from diffadapt.worlds.config import AutoencoderFitConfig

SUFFIX, NEGATIVE = ", best quality", "lower quality, worst quality"
"""What half of the captions end in, and the prompt that stands for no caption beside the empty one (as
TransferConfig has them)."""


@dataclass(frozen=True)
class LayoutFitConfig:
    """A latent diffusion model (noise prediction on Stable Diffusion's schedule) whose ControlNet sees the
    label map's colours."""

    size: Natural = 0
    """Short side in pixels that images (area) and colour maps (area) are brought to; 0: as they are."""
    crop: tuple[Natural, Natural] = (0, 0)
    """(height, width) of the crops that are trained on, after ``size``; (0, 0): whole images, all of one
    size."""
    flip: bool = True
    """Half of the examples are mirrored."""
    variants: Positive = 4
    """Relit copies of a scene for each appearance, every one with its own light."""
    vae: AutoencoderFitConfig = AutoencoderFitConfig(
        steps=600, batch_size=16, lr=3e-3, channels=(32, 32), latent_channels=6, kl_weight=1e-5
    )
    """Each width after the first halves the side; all widths are equal."""
    steps: Positive = 2500
    batch_size: Positive = 16
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    warmup_steps: Natural = 100
    ema_decay: Fraction = 0.995
    clip_norm: Annotated[float, AtLeast(1e-09)] = 1.0
    prompt_dropout: Fraction = 0.15
    """Probability that a caption becomes the empty or the negative prompt, for classifier-free guidance."""
    layout_dropout: Fraction = 0.1
    """Probability that an example is shown without its layout, so that the U-Net also works alone."""
    loss_weight: Annotated[float, AtLeast(1)] = 5.0
    """Largest weight of an example: the error of the noise counts 1 / alpha_bar(t) times, at most this (Hang
    et al. 2023)."""
    low_noise: NonNegative = 0.5
    """Largest amplitude of the noise's low-frequency part beside the white one. It hides an image's overall
    light at high noise levels, so that the caption decides about it, not what is left of the source image
    (offset noise)."""
    latent_scale: Annotated[float, AtLeast(0.001)] = 0.5
    """Standard deviation of the latents that are denoised: below 1, a level of the schedule hides more (Chen
    2023)."""
    channels: tuple[Positive, ...] = (32, 48, 64, 64)
    """Widths of U-Net and ControlNet by level; the deepest alone attends, so that any size can be generated.
    """
    heads: Positive = 4
    groups: Positive = 4
    text_width: Positive = 64
    text_layers: Positive = 1
    max_words: Annotated[int, AtLeast(4)] = 16
    """Tokens that a prompt may have, the two marks included; longer prompts are cut."""
    save_precision: Literal["fp32", "fp16"] = "fp16"
    precision: Precision = by_device("tf32")
    """Of training; auto: fp32, on CUDA tf32."""
    seed: Natural = 0
    checkpoint_every: Positive = execution(200)

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

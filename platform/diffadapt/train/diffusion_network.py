"""Diffusion networks to train: a conditional DiT or an unconditional UNet2DModel behind one call, and how
they are saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffadapt.core.config import from_dict
from diffadapt.core.errors import RecipeError
from diffadapt.models.diffusers_folder import save_component
from diffadapt.models.dit import build_dit, save_dit, zero_init
from diffadapt.train.config import DiffusionFitConfig


class Denoiser(nn.Module):
    """``forward(x, t, y=None)``: noisy images (B, C, H, W) and integer timesteps (B,) to (B, C or 2C, H, W).

    With ``space_to_depth`` s the wrapped ``core`` works on (B, C s^2, H / s, W / s).
    """

    def __init__(self, core: nn.Module, space_to_depth: int = 1):
        super().__init__()
        self.core, self.space_to_depth = core, space_to_depth

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        s = self.space_to_depth
        folded = F.pixel_unshuffle(x, s) if s > 1 else x
        out = self.core(folded, t, return_dict=False, **({} if y is None else {"class_labels": y}))[0]
        return F.pixel_shuffle(out, s) if s > 1 else out


def build_denoiser(config: DiffusionFitConfig, channels: int, size: int, num_classes: int | None) -> Denoiser:
    """The network of ``config`` for inputs (B, ``channels``, ``size``, ``size``): a DiT if ``num_classes``
    else a UNet.

    Raises RecipeError for settings that do not fit together, with the field to change.
    """
    if config.architecture == "dit":
        if not num_classes:
            raise RecipeError(
                "A DiT is class-conditional and needs labelled images; use architecture unet for images"
                " without labels."
            )
        return Denoiser(_dit(config, channels, size, num_classes))
    if num_classes is not None:
        raise RecipeError(
            "The unet is trained without labels; pass num_classes None, or use architecture dit."
        )
    return Denoiser(_unet(config, channels, size), config.space_to_depth)


def shell(config: dict[str, Any], channels: int, size: int, classes: int) -> tuple[nn.Module, tuple]:
    """The network of some fields of a DiffusionFitConfig and the inputs of one item, for what counts it."""
    net = build_denoiser(from_dict(DiffusionFitConfig, config), channels, size, classes or None)
    t = torch.empty(1, dtype=torch.long)
    return net, (torch.empty(1, channels, size, size), t, *([t] if classes else []))


def save_denoiser(model: Denoiser, folder: str | Path, dtype: torch.dtype) -> None:
    """Write the core under transformer/ or unet/ as safetensors of ``dtype``, in the layout of diffusers."""
    if isinstance(model.core, UNet2DModel):
        with torch.device("meta"):
            twin = UNet2DModel.from_config(dict(model.core.config))
        twin.load_state_dict(
            {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.core.state_dict().items()},
            assign=True,
        )
        save_component(twin, Path(folder) / "unet")
    else:
        save_dit(model.core, Path(folder) / "transformer", dtype)


def _dit(config: DiffusionFitConfig, channels: int, size: int, num_classes: int) -> nn.Module:
    if len(config.channels) != 3:
        raise RecipeError(
            f"A DiT's channels are (heads, head width, layers), three numbers, not {config.channels}."
        )
    if size % config.patch_size:
        raise RecipeError(f"patch_size {config.patch_size} does not divide the network's input size {size}.")
    if config.space_to_depth != 1:
        raise RecipeError(
            "space_to_depth is for the unet; a DiT already folds pixels, so raise its patch_size instead."
        )
    heads, width, layers = config.channels
    if heads * width % 4:
        raise RecipeError(
            f"A DiT's width, heads x head width = {heads * width}, must be a multiple of 4 for its position"
            " table."
        )
    model = build_dit(
        num_attention_heads=heads,
        attention_head_dim=width,
        num_layers=layers,
        in_channels=channels,
        out_channels=channels * (2 if config.learn_sigma else 1),
        sample_size=size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=num_classes,
    )
    zero_init(model)
    return model


def _unet(config: DiffusionFitConfig, channels: int, size: int) -> nn.Module:
    """ADM's blocks (Dhariwal & Nichol 2021): residual up- and downsampling, scale-shift norm, attention at
    chosen levels."""
    widths, s = config.channels, config.space_to_depth
    levels, deepest = len(widths), 2 ** (len(widths) - 1) * s
    if size % deepest:
        raise RecipeError(
            f"{levels} levels and space_to_depth {s} need a size divisible by {deepest}, but it is {size}."
        )
    beyond = [level for level in config.attention_levels if not 0 <= level < levels]
    if beyond:
        raise RecipeError(
            f"attention_levels names level {beyond[0]}, but channels {widths} make levels 0..{levels - 1}"
            " only."
        )
    attended = [level in config.attention_levels for level in range(levels)]
    groups = math.gcd(32, *widths)
    head = math.gcd(64, *(w for w, yes in zip(widths, attended, strict=True) if yes), widths[-1])
    settings: dict[str, Any] = dict(
        sample_size=size // s,
        in_channels=channels * s**2,
        out_channels=channels * s**2 * (2 if config.learn_sigma else 1),
        block_out_channels=tuple(widths),
        layers_per_block=config.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if yes else "ResnetDownsampleBlock2D" for yes in attended),
        up_block_types=tuple(
            "AttnUpBlock2D" if yes else "ResnetUpsampleBlock2D" for yes in reversed(attended)
        ),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=head,
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
    )
    model = UNet2DModel(**settings)
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)  # type: ignore[arg-type]
    return model

"""A random Stable Diffusion pipeline with a segmentation ControlNet, of a few hundred kB, saved as diffusers
writes it: for tests of the transfer."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.unit.tinypipelines import clip_tokenizer, text_encoder

WORDS = (
    "driving",
    "daytime",
    "quality",
    "night",
    "under",
    "lower",
    "worst",
    "snow",
    "rain",
    "game",
    "dusk",
    "best",
    "fog",
    "the",
    "at",
    "in",
    "a",
    ",",
)
"""Longer ones first: merges of a short word would otherwise break up a longer one that ends like it."""
WIDTH = 16
"""Channels of the text embedding."""


def tiny_scene_pipeline(folder: str | Path, factor: int = 8, seed: int = 0) -> str:
    """Save a StableDiffusionControlNetPipeline with random weights under ``folder``, and return the folder as
    a string.

    ``factor`` is that of the autoencoder (2, 4 or 8); sides must be multiples of twice that. The
    zero-convolutions of the ControlNet are perturbed, so that the layout acts on the picture.
    ``folder/controlnet`` is a ControlNet folder of its own.
    """
    from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(words=WORDS)
    unet = tiny_unet()
    pipe = StableDiffusionControlNetPipeline(
        tiny_autoencoder(factor),
        text_encoder(tokenizer, width=WIDTH),
        tokenizer,
        unet,
        tiny_controlnet(unet, factor),
        DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return str(folder)


def tiny_autoencoder(factor: int):
    from diffusers import AutoencoderKL

    levels = factor.bit_length()
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
    ).eval()


def tiny_unet(**more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()


def tiny_controlnet(unet, factor: int, amount: float = 0.3):
    """The ControlNet that belongs to ``unet``, its zero-convolutions drawn from a normal distribution of
    deviation ``amount``.

    The convolutions before them are made larger, so that a layout is still there when it arrives at the
    U-Net.
    """
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 12, 16, 16)[: factor.bit_length()]
    )
    for convolution in [net.controlnet_cond_embedding.conv_in, *net.controlnet_cond_embedding.blocks]:
        torch.nn.init.kaiming_normal_(convolution.weight)
    zero = [
        *net.controlnet_down_blocks.parameters(),
        *net.controlnet_mid_block.parameters(),
        *net.controlnet_cond_embedding.conv_out.parameters(),
    ]
    for parameter in zero:
        torch.nn.init.normal_(parameter, std=amount)
    return net.eval()

"""Stable Diffusion pipelines and ControlNets from folders and hub ids, ready for a transfer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.diffusion.generators.loading import loaded, named, quiet
from diffadapt.diffusion.translation.checks import multiple_message, uses_layout, variant_of
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.pretrained import from_pretrained


def load_networks(config: TransferConfig, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any | None]:
    """(pipeline, ControlNet or None) on ``device`` without gradients, U-Net, ControlNet and text encoder in
    ``dtype``.

    The autoencoder stays in float32: half precision shows in grey levels, and it is a tenth of the work.
    Raises WeightsError when weights are missing, damaged or do not belong together, RecipeError when sizes do
    not fit them.
    """
    with quiet():
        control = _controlnet(config) if uses_layout(config) else None
        pipe = _pipeline(config, control)
        if config.lora:
            _add_lora(pipe, config)
    _check_fit(pipe, control, config)
    for name in ("vae", "text_encoder", "unet", "controlnet"):
        module = control if name == "controlnet" else getattr(pipe, name)
        if module is None:
            continue
        module.requires_grad_(False).eval().to(device)
        if dtype != torch.float32 and name != "vae":
            with quiet():
                module.to(dtype)
        if device.type == "cuda" and name != "text_encoder":
            module.to(memory_format=torch.channels_last)
    if config.compile:
        for module in filter(None, (pipe.unet, control)):
            module.compile()
    return pipe, control


def _controlnet(config: TransferConfig) -> Any:
    where = config.controlnet or config.weights
    name, revision = named(where)
    given: dict[str, Any] = {"subfolder": "controlnet"} if not config.controlnet else {}
    return loaded(
        "ControlNet",
        where,
        lambda: from_pretrained(ControlNetModel, name, torch_dtype=torch.float32, revision=revision, **given),
    )


def _pipeline(config: TransferConfig, control: Any | None) -> Any:
    name, revision = named(config.weights)
    given = {
        "torch_dtype": torch.float32,
        "revision": revision,
        "variant": variant_of(config) or None,
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
    }
    if control is None:
        return loaded(
            "Stable Diffusion pipeline",
            config.weights,
            lambda: from_pretrained(StableDiffusionPipeline, name, **given),
        )
    return loaded(
        "Stable Diffusion pipeline",
        config.weights,
        lambda: from_pretrained(StableDiffusionControlNetPipeline, name, controlnet=control, **given),
    )


def _add_lora(pipe: Any, config: TransferConfig) -> None:
    name, revision = named(config.lora)

    def add() -> None:
        pipe.load_lora_weights(name, revision=revision)
        pipe.fuse_lora()

    loaded("LoRA", config.lora, add)


def _check_fit(pipe: Any, control: Any | None, config: TransferConfig) -> None:
    unet, vae = pipe.unet.config, pipe.vae.config
    width = pipe.text_encoder.config.hidden_size
    if unet.in_channels != vae.latent_channels or unet.cross_attention_dim != width:
        raise WeightsError(
            f"The U-Net of {config.weights!r} takes {unet.in_channels} channels and text of width"
            f" {unet.cross_attention_dim}, but its autoencoder and text encoder give {vae.latent_channels}"
            f" and {width}: give a text-to-image pipeline (not one for inpainting or upscaling) whose parts"
            " belong together."
        )
    factor = int(pipe.vae_scale_factor)
    if config.multiple % factor:
        raise RecipeError(multiple_message(config, factor))
    if control is None:
        return
    ours = (
        control.config.in_channels,
        control.config.cross_attention_dim,
        tuple(control.config.block_out_channels),
        control.config.layers_per_block,
    )
    if (
        ours
        != (
            unet.in_channels,
            unet.cross_attention_dim,
            tuple(unet.block_out_channels),
            unet.layers_per_block,
        )
        or control.config.conditioning_channels != 3
    ):
        raise WeightsError(
            f"The ControlNet {config.controlnet or 'of ' + repr(config.weights)} was made for another network"
            f" than {config.weights!r}: give one for the same family (Stable Diffusion 1.x and 2.x need"
            " different ones) that takes colour pictures."
        )
    if 2 ** (len(control.config.conditioning_embedding_out_channels) - 1) != factor:
        raise WeightsError(
            f"The ControlNet {config.controlnet or 'of ' + repr(config.weights)} does not reduce pictures"
            f" {factor} times as the autoencoder of {config.weights!r} does: give one that belongs to it."
        )

"""Stable Diffusion pipelines and ControlNets from folders and hub ids, ready for a transfer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline

from diffadapt.compute.compiling import channels_last, wants_compilation
from diffadapt.diffusion.generators.loading import loaded, named, quiet
from diffadapt.diffusion.translation.checks import check_fit, uses_layout, variant_of
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
    parts = {name: getattr(pipe, name).config for name in ("unet", "vae", "text_encoder")}
    check_fit(config, parts, None if control is None else control.config)
    for name in ("vae", "text_encoder", "unet", "controlnet"):
        module = control if name == "controlnet" else getattr(pipe, name)
        if module is None:
            continue
        module.requires_grad_(False).eval()
        if dtype != torch.float32 and name != "vae":
            with quiet():
                module.to(dtype)
        channels_last(module, device)
    if wants_compilation(config.compile, device):
        for module in filter(None, (pipe.unet, control)):
            module.compile(dynamic=False)
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

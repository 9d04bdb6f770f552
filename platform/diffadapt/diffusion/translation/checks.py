"""What can be known to fail before a weight of the transfer is loaded. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.diffusion.generators.pipeline_index import PipelineIndex, demand_files, pipeline_index
from diffadapt.diffusion.given import look_at_controlnet, look_at_parts
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.diffusion.translation.levels import transfer_levels
from diffadapt.models.weights import is_hub_id, resolve

AUTO, NON_EMA = "auto", "non_ema"
_WITH_BOTH = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5")
"""Hub ids whose U-Net is there with averaged weights and without."""
_NEEDED = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def check_transfer(config: TransferConfig) -> None:
    """Raise RecipeError or WeightsError for settings that cannot work together or that the weights at hand
    cannot serve.

    A hub id that is not in the local cache yet, and ``train``, are looked at by their settings only.
    """
    check_settings(config)
    if config.weights != "train":
        check_weights(config, pipeline_index(config.weights))


def check_settings(config: TransferConfig) -> None:
    """The checks that need no weights."""
    strength = config.resolved.strength
    if min(config.size, config.multiple, config.batch_size) < 1:
        raise RecipeError("transfer.size, transfer.multiple and transfer.batch_size must be at least 1.")
    if config.method == "edit_friendly" and config.eta <= 0:
        raise RecipeError(
            "transfer.method 'edit_friendly' keeps the image in the sampler's noise, of which transfer.eta ="
            " 0 has none: set transfer.eta to 1."
        )
    if config.method == "edit_friendly" and config.profile == "lcm":
        raise RecipeError(
            "transfer.profile 'lcm' samples in a way that 'edit_friendly' cannot invert: use transfer.method"
            " 'stochastic', or no profile."
        )
    if config.lora and importlib.util.find_spec("peft") is None:
        raise RecipeError(
            "transfer.lora needs the package peft, which is not installed: run `pip install peft`, or leave"
            " transfer.lora empty."
        )
    if config.variant not in ("", AUTO) and config.weights == "train":
        raise RecipeError(
            "transfer.variant names a file of published weights, but transfer.weights is 'train': leave the"
            " variant out."
        )
    transfer_levels(config, strength)


def check_weights(config: TransferConfig, index: PipelineIndex | None) -> None:
    """The checks of a pipeline's own files; ``index`` None: not there yet."""
    if uses_layout(config) and not config.controlnet:
        own_controlnet(config.weights)
    elif uses_layout(config):
        demand_controlnet(config.controlnet)
    if index is None:
        return
    missing = [name for name in _NEEDED if not (index.components.get(name) or [None, None])[1]]
    if (
        missing
        or not index.name.startswith("StableDiffusion")
        or "XL" in index.name
        or index.name.startswith("StableDiffusion3")
    ):
        raise WeightsError(
            f"{config.weights!r} is a {index.name or 'pipeline without a name'}, which the transfer cannot"
            " use: give a pipeline of the Stable Diffusion 1.x or 2.x family."
        )
    demand_files(
        config.weights, index, variant_of(config), "transfer.variant", ("safety_checker", "feature_extractor")
    )
    if config.multiple % index.multiple:
        raise RecipeError(multiple_message(config, index.multiple))
    needed = {name: index.components[name] for name in _NEEDED}
    control = None
    if uses_layout(config) and config.controlnet:
        control = look_at_controlnet(config.controlnet)
    elif uses_layout(config):
        needed["controlnet"] = ["diffusers", "ControlNetModel"]
    if parts := look_at_parts(config.weights, needed, variant_of(config)):
        check_fit(config, parts, control or parts.get("controlnet"))


def check_fit(config: TransferConfig, parts: Mapping[str, Any], control: Any | None) -> None:
    """Raise WeightsError or RecipeError where the configurations of U-Net, autoencoder, text encoder and
    ControlNet (None: none, or not there yet) do not belong together."""
    unet, vae = parts["unet"], parts["vae"]
    width = parts["text_encoder"].hidden_size
    if unet.in_channels != vae.latent_channels or unet.cross_attention_dim != width:
        raise WeightsError(
            f"The U-Net of {config.weights!r} takes {unet.in_channels} channels and text of width"
            f" {unet.cross_attention_dim}, but its autoencoder and text encoder give {vae.latent_channels}"
            f" and {width}: give a text-to-image pipeline (not one for inpainting or upscaling) whose parts"
            " belong together."
        )
    factor = 2 ** (len(vae.block_out_channels) - 1)
    if config.multiple % factor:
        raise RecipeError(multiple_message(config, factor))
    if control is None:
        return
    same = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")
    if [_plain(getattr(control, k)) for k in same] != [_plain(getattr(unet, k)) for k in same] or (
        control.conditioning_channels != 3
    ):
        raise WeightsError(
            f"The ControlNet {config.controlnet or 'of ' + repr(config.weights)} was made for another network"
            f" than {config.weights!r}: give one for the same family (Stable Diffusion 1.x and 2.x need"
            " different ones) that takes colour pictures."
        )
    if 2 ** (len(control.conditioning_embedding_out_channels) - 1) != factor:
        raise WeightsError(
            f"The ControlNet {config.controlnet or 'of ' + repr(config.weights)} does not reduce pictures"
            f" {factor} times as the autoencoder of {config.weights!r} does: give one that belongs to it."
        )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def demand_controlnet(weights: str) -> None:
    """Raise WeightsError for a local folder of something else."""
    resolved = resolve(weights)
    if is_hub_id(resolved):
        return
    try:
        found = parse((Path(resolved) / "config.json").read_bytes()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != "ControlNetModel":
        why = f"its config.json names {found}" if found else "it has no readable config.json"
        raise WeightsError(
            f"{weights!r} is no ControlNet ({why}): give a folder that ControlNetModel.save_pretrained wrote,"
            " or a hub id."
        )


def variant_of(config: TransferConfig) -> str:
    """The variant of the weight files that ``config`` means; '' the plain ones.

    What 'auto' means for a hub id is a matter of its name alone, so that a plan is the same before and after
    a download. Raises WeightsError for weights that are none.
    """
    if config.variant != AUTO:
        return config.variant
    if config.weights == "train":
        return ""
    folder = resolve(config.weights)
    if is_hub_id(folder):
        return NON_EMA if folder.partition("@")[0].lower() in _WITH_BOTH else ""
    return NON_EMA if _has(folder, NON_EMA) else ""


def _has(folder: str, variant: str) -> bool:
    return any(Path(folder).rglob(f"*.{variant}.*"))


def uses_layout(config: TransferConfig) -> bool:
    """Whether a ControlNet is asked (img2img is the baseline without one)."""
    return config.method != "img2img"


def own_controlnet(weights: str) -> None:
    """Raise WeightsError when a local pipeline folder has no ControlNet of its own."""
    resolved = resolve(weights)
    if not is_hub_id(resolved) and not (Path(resolved) / "controlnet" / "config.json").is_file():
        raise WeightsError(
            f"{weights!r} has no controlnet folder of its own: set transfer.controlnet to a ControlNet folder"
            " or hub id, or transfer.method to 'img2img'."
        )


def multiple_message(config: TransferConfig, factor: int) -> str:
    """What to say when sizes do not fit the autoencoder."""
    return (
        f"transfer.multiple is {config.multiple}, but {config.weights!r} makes pictures whose sides are"
        f" multiples of {factor}: use a multiple of {factor}."
    )

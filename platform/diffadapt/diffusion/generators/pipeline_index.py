"""What a diffusers pipeline folder says of itself, read without torch, and which settings it can serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.core.leniency import missing
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.models.weight_files import demand_components
from diffadapt.models.weights import is_hub_id, resolve

NOT_FROM_TEXT = ("DiTPipeline", "DDPMPipeline", "DDIMPipeline", "LDMPipeline", "ScoreSdeVePipeline")
"""Pipelines that take no prompt."""


@dataclass(frozen=True)
class PipelineIndex:
    """model_index.json, and the configurations of the scheduler and of the autoencoder."""

    name: str
    components: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    autoencoder: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flow_matching(self) -> bool:
        """Whether the network predicts velocities of a rectified flow (SD3, FLUX): a scheduler of the DDPM
        family would misread it."""
        s = self.scheduler
        return (
            str(s.get("_class_name", "")).startswith("FlowMatch")
            or s.get("prediction_type") == "flow_prediction"
            or bool(s.get("use_flow_sigmas"))
        )

    @property
    def has_safety_checker(self) -> bool:
        return bool((self.components.get("safety_checker") or [None, None])[1])

    @property
    def multiple(self) -> int:
        """What the sides of pictures must be multiples of, as far as that is known: of a U-Net over an
        autoencoder, its factor."""
        return (
            int(2 ** (len(self.autoencoder.get("block_out_channels") or [1]) - 1))
            if {"vae", "unet"} <= set(self.components)
            else 1
        )


def pipeline_index(weights: str) -> PipelineIndex | None:
    """The index of a folder, of ``embedded:<name>`` or of a hub id in the local cache; None for a hub id that
    is not there yet.

    Raises WeightsError for a folder without model_index.json and for one that is damaged.
    """
    resolved = resolve(weights)
    hub = is_hub_id(resolved)
    index = _read(resolved, "model_index.json", hub)
    if index is None:
        if hub:
            return None
        if Path(resolved).is_file():
            raise WeightsError(
                f"{weights!r} is a single file, which has no model_index.json, tokenizer and settings, so it"
                " is no diffusers pipeline: make a folder of it with `diffadapt weights import-single-file"
                f" {weights} --out {Path(resolved).stem}`, and give that."
            )
        raise WeightsError(
            f"{weights!r} has no model_index.json, so it is no diffusers pipeline: give the folder that"
            " save_pretrained wrote, or a hub id."
        )
    name = index.pop("_class_name", "")
    components = {key: value for key, value in index.items() if isinstance(value, list)}
    if not (name and components):
        raise WeightsError(
            f"The model_index.json of {weights!r} names no pipeline and its parts (_class_name): restore the"
            " file from the weights' source."
        )
    return PipelineIndex(
        str(name),
        components,
        _read(resolved, "scheduler/scheduler_config.json", hub) or {},
        _read(resolved, "vae/config.json", hub) or {},
    )


def at_hand(weights: str) -> bool:
    """Whether there are such weights; False only while planning leniently, which notes it. Raises
    WeightsError."""
    try:
        resolve(weights)
    except WeightsError as error:
        missing(error)
        return False
    return True


def dit_index(weights: str) -> PipelineIndex | None:
    """The index of a class-conditional generator's folder; None for a hub id. Raises WeightsError for a
    folder without a transformer."""
    resolved = resolve(weights)
    if is_hub_id(resolved):
        return None
    parts = {"transformer": ["diffusers", "DiTTransformer2DModel"]}
    index = _read(resolved, "model_index.json", False) or {}
    if (index.get("vae") or [None, None])[1]:
        parts["vae"] = ["diffusers", "AutoencoderKL"]
    if not (Path(resolved) / "transformer" / "config.json").is_file():
        raise WeightsError(
            f"{weights!r} has no transformer/config.json, so it is no DiT pipeline: give a DiTPipeline"
            " folder, which `diffadapt weights import-dit` makes of the authors' checkpoints."
        )
    return PipelineIndex(str(index.get("_class_name", "")), parts)


def dit_classes(weights: str) -> int | None:
    """The classes of a class-conditional generator; None where its configuration is not there or does not
    say."""
    resolved = resolve(weights)
    values = _read(resolved, "transformer/config.json", is_hub_id(resolved)) or {}
    found = values.get("num_embeds_ada_norm")
    return found if isinstance(found, int) else None


def demand_files(
    weights: str, index: PipelineIndex, variant: str, option: str, unused: Collection[str] = ()
) -> None:
    """Raise WeightsError where a local folder lacks weight files of a part but ``unused``, or has them in
    other variants only. Shipped weights are not doubted."""
    resolved = resolve(weights)
    if is_hub_id(resolved) or weights.startswith("embedded:"):
        return
    needed = {name: kind for name, kind in index.components.items() if name not in unused}
    demand_components(weights, Path(resolved), needed, variant, option)


def check_settings(config: TextToImageConfig, index: PipelineIndex | None) -> None:
    """Raise RecipeError or WeightsError for what can be known to fail before a weight is loaded. ``index``
    None: only the settings are looked at."""
    if config.images_per_class < 1 or config.images_per_shard < 1 or config.classes_per_shard < 1:
        raise RecipeError(
            "generator.images_per_class, images_per_shard and classes_per_shard must be at least 1."
        )
    if config.steps < 1:
        raise RecipeError(f"generator.steps is {config.steps}; a picture needs at least one step.")
    if config.size < 0 or config.store_size < 0:
        raise RecipeError(
            "generator.size and store_size are sides in pixels; 0 means the pipeline's own, a negative number"
            " means nothing."
        )
    if config.negative_prompt and config.guidance <= 1:
        raise RecipeError(
            f"generator.negative_prompt acts through guidance, which is off at {config.guidance:g}: raise"
            " generator.guidance above 1, or leave the negative prompt empty."
        )
    if index is None:
        return
    if index.name in NOT_FROM_TEXT:
        raise WeightsError(
            f"{config.weights!r} is a {index.name}, which takes no prompt; give a text-to-image pipeline"
            " (Stable Diffusion, SDXL, SD3, FLUX, ...)."
        )
    if index.flow_matching and config.scheduler not in ("pipeline", "euler"):
        raise RecipeError(
            f"{config.weights!r} is a flow-matching pipeline ({index.name}), which {config.scheduler!r}"
            " cannot sample: set generator.scheduler to 'pipeline' or 'euler'."
        )
    if config.safety_checker and not index.has_safety_checker:
        raise RecipeError(
            f"generator.safety_checker is on, but {config.weights!r} ({index.name}) brings none: switch it"
            " off, or give weights that have one."
        )
    if config.size % index.multiple:
        raise RecipeError(size_message(config.size, index.name, index.multiple))
    if config.negative_prompt and index.name.startswith("Flux"):
        raise RecipeError(negative_prompt_message(config, index.name))


def size_message(size: int, pipeline: str, multiple: int) -> str:
    lower = size // multiple * multiple
    return (
        f"generator.size is {size}, but {pipeline} makes pictures whose side is a multiple of {multiple}: use"
        f" {lower or multiple} or {(lower or multiple) + multiple}."
    )


def negative_prompt_message(config: TextToImageConfig, pipeline: str) -> str:
    return (
        f"{config.weights!r} is guidance-distilled ({pipeline}) and has no use for generator.negative_prompt:"
        " leave it empty."
    )


def _read(resolved: str, name: str, hub: bool) -> dict[str, Any] | None:
    path = Path(resolved) / name
    if hub:
        from huggingface_hub import try_to_load_from_cache

        repo, _, revision = resolved.partition("@")
        cached = try_to_load_from_cache(repo, name, revision=revision or None)
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    if not path.is_file():
        return None
    try:
        value = parse(path.read_bytes())
    except ValueError as error:
        raise WeightsError(
            f"{path} is not valid JSON ({error}); restore the file from the weights' source."
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no settings; restore the file from the weights' source.")
    return dict(value)

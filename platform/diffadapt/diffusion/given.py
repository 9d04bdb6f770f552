"""Weights that a recipe gives a generator, looked at while planning: whether the parts of a folder are
whole, can be made, and belong together. Shipped weights are not doubted, those of a hub are looked at when
they are there."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.leniency import missing
from diffadapt.models.weights import content_revision, is_hub_id, resolve, weights_label

Kind = tuple[str, str]
"""(library, class) of a part."""


def look_at_parts(
    weights: str, components: Mapping[str, Any], variant: str = "", unused: Collection[str] = ()
) -> Mapping[str, Any]:
    """The configurations of the parts that model_index.json names, without the ``unused``; empty for weights
    that are shipped or not on the disk. Raises WeightsError (models/parts.look_at_part)."""
    if not given(weights):
        return {}
    parts = {
        name: (str(kind[0]), str(kind[1]))
        for name, kind in components.items()
        if name not in unused and isinstance(kind, list) and len(kind) == 2 and kind[1]
    }
    folder = resolve(weights)
    return _looked_at(weights, folder, content_revision(folder), tuple(sorted(parts.items())), variant)


def given(weights: str) -> bool:
    """Whether they are files of the user's own."""
    return not weights.startswith("embedded:") and not is_hub_id(resolve(weights))


@functools.lru_cache(maxsize=16)
def _looked_at(
    weights: str, folder: str, revision: str, parts: tuple[tuple[str, Kind], ...], variant: str
) -> Mapping[str, Any]:
    from diffadapt.diffusion.generators.loading import quiet
    from diffadapt.models.parts import look_at_part
    from diffadapt.models.pretrained import demand_pipeline_without_code

    demand_pipeline_without_code(folder)
    with quiet():
        return {name: look_at_part(weights, Path(folder) / name, kind, variant) for name, kind in parts}


def look_at_controlnet(weights: str) -> Any | None:
    """The configuration of a ControlNet that is given as a folder; None for one that is not on the disk."""
    if not given(weights):
        return None
    folder = resolve(weights)
    parts = (("", ("diffusers", "ControlNetModel")),)
    return _looked_at(weights, folder, content_revision(folder), parts, "").get("")


def check_unconditional(weights: str) -> None:
    """Raise WeightsError for a folder that alignment cannot use; what is not at hand is for the stage's
    revisions to miss."""
    if (content := _content(weights)) is not None:
        _unconditional(weights, content)


def check_student(weights: str, calls: int) -> None:
    """Raise WeightsError for a folder that is no student, or RecipeError for one that was trained for fewer
    ``calls``."""
    if (content := _content(weights)) is not None:
        _student(weights, content, calls)


def _content(weights: str) -> str | None:
    """The digest of a folder that is given and at hand; None for what is trained, or not at hand."""
    try:
        if weights == "train" or not given(weights):
            return None
    except WeightsError as error:
        missing(error)
        return None
    return content_revision(resolve(weights))


@functools.lru_cache(maxsize=16)
def _student(weights: str, revision: str, calls: int) -> None:
    from diffadapt.diffusion.student import demand_calls, levels_of
    from diffadapt.models.diffusers_folder import DETAILS, read_json

    demand_calls(levels_of(weights, read_json(weights, DETAILS) or {}), calls)


@functools.lru_cache(maxsize=16)
def _unconditional(weights: str, revision: str) -> None:
    from diffadapt.diffusion.network import look_at_unconditional

    look_at_unconditional(weights)


def demand_latents(weights: str, channels: int, vae: Any | None) -> None:
    """Raise WeightsError where a DiT of so many input ``channels`` and the autoencoder (its configuration;
    None: pixels) do not belong together."""
    if vae is None and channels not in (1, 3):
        raise WeightsError(
            f"The network of {weights!r} works on {channels} latent channels but model_index.json names no"
            " vae; add an AutoencoderKL under vae/ (`diffadapt weights import-dit --vae`)."
        )
    if vae is not None and vae.latent_channels != channels:
        raise WeightsError(
            f"The vae of {weights!r} has {vae.latent_channels} latent channels but its transformer"
            f" {channels}; give the vae that the transformer was trained with."
        )


def demand_labels(weights: str, has: int, wanted: int) -> None:
    """Raise RecipeError where a generator of ``has`` classes is for data of ``wanted``."""
    if wanted > has:
        raise RecipeError(
            f"The data has {wanted} classes but the generator {weights_label(weights)} knows {has}: use a"
            " generator of these classes, or train one with --synth.weights train."
        )

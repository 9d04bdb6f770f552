"""What can be known to fail before a scene is transferred, beyond what diffusion/translation/checks.py asks
of the generator. Knows no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.leniency import missing
from diffadapt.data.scenes.palettes import check_palette
from diffadapt.diffusion.translation.checks import check_settings, check_transfer
from diffadapt.diffusion.translation.levels import transfer_levels
from diffadapt.models.clip_folder import check_clip
from diffadapt.models.weights import is_hub_id, resolve

if TYPE_CHECKING:
    from diffadapt.stages.transfer import TransferScenes


def check_generator(stage: TransferScenes) -> None:
    """Raise RecipeError or WeightsError for settings and weights that no image could be transferred with."""
    c = stage.config
    check_settings(c)
    if stage.needs_layout:
        check_palette(stage.classes, c.palette)
    try:
        check_transfer(c)
        if stage.needs_layout and c.weights != "train" and c.controlnet:
            _check_controlnet(c.controlnet)
        if c.lora:
            resolve(c.lora)
    except WeightsError as error:
        missing(error)


def _check_controlnet(weights: str) -> None:
    resolved = resolve(weights)
    if is_hub_id(resolved):
        return
    try:
        found = json.loads((Path(resolved) / "config.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != "ControlNetModel":
        why = f"its config.json names {found}" if found else "it has no readable config.json"
        raise WeightsError(
            f"{weights!r} is no ControlNet ({why}): give a folder that ControlNetModel.save_pretrained wrote,"
            " or a hub id."
        )


def check_quality(stage: TransferScenes) -> None:
    """Raise RecipeError or WeightsError for thresholds that cannot be measured, and for retries that cannot
    be made."""
    q, c = stage.quality, stage.config
    low, high = q.luminance
    if not low < high:
        raise RecipeError(
            f"quality.luminance is {low:g} {high:g}, but its first number is the darkest mean luma that is"
            " accepted and its second the brightest."
        )
    if q.clip_score > 0 and not q.clip:
        raise RecipeError(
            "quality.clip_score is set, but quality.clip is empty: name the CLIP folder or hub id that"
            " measures it, or set the score to 0."
        )
    if q.clip:
        check_clip(q.clip)
    if not q.retries or q.retry == "seed":
        return
    if c.method == "layout":
        raise RecipeError(
            "quality.retry is strength, but transfer.method layout starts from noise whatever the strength:"
            " set quality.retry to seed."
        )
    if q.strength_step <= 0:
        raise RecipeError(
            "quality.retry is strength, but quality.strength_step is 0: give the strength that each retry"
            " takes off, or set quality.retry to seed."
        )
    last = stage.strength(q.retries)
    try:
        transfer_levels(c, last)
    except RecipeError:
        raise RecipeError(
            f"quality.retries is {q.retries}: the last retry would have a strength of {last:g}, which leaves"
            f" no step; take fewer, or a smaller quality.strength_step than {q.strength_step:g}."
        ) from None

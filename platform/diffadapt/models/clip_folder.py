"""What a CLIP folder says of itself, read without torch, so that a wrong one is named before anything is
made."""

from __future__ import annotations

from pathlib import Path

from diffadapt.core.errors import UnfitError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.core.leniency import missing
from diffadapt.models.weights import is_hub_id, resolve


def check_clip(weights: str) -> None:
    """Raise WeightsError for a local file or folder that is not a CLIPModel of transformers; hub ids are not
    looked into."""
    try:
        resolved = resolve(weights)
        if is_hub_id(resolved):
            return
        config = Path(resolved) / "config.json"
        if not config.is_file():
            raise UnfitError(
                f"The folder {weights!r} has no config.json, so it is no CLIP: give a folder that"
                " transformers' CLIPModel wrote, with its tokenizer and image processor."
            )
        demand_clip(weights, parse(config.read_bytes()).get("model_type"))
    except WeightsError as error:
        missing(error)
    except (ValueError, AttributeError):
        raise WeightsError(
            f"The file config.json of the CLIP folder {weights!r} is damaged: restore it from the weights'"
            " source."
        ) from None


def demand_clip(weights: str, kind: str | None) -> None:
    """Raise UnfitError unless ``kind``, the model_type of a configuration, is CLIP's."""
    if kind != "clip":
        raise UnfitError(
            f"The weights {weights!r} are a {kind or 'nameless'!r} model, not a CLIP: give a CLIPModel such"
            " as openai/clip-vit-base-patch32."
        )

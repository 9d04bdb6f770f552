"""A timm model without its classifier, with published weights, those of a file or folder, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.classifier import demand_known, demand_published, weightless
from diffadapt.models.classifier_source import folder_config
from diffadapt.models.importers.dinov2 import as_timm, from_transformers
from diffadapt.models.state_dict import Checkpoint, arranged, demand_fit, load_into, read_checkpoint


def timm_body(
    name: str, weights: str, recorded: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """(model without classifier, the arguments that timm makes it with). ``extra`` arguments are added.

    ``weights``: imagenet (what timm publishes), none, or a file or timm-format folder. ``recorded``: the
    arguments of an earlier model, to be filled with its own weights. Raises WeightsError for weights that are
    missing or do not fit, RecipeError for an unknown architecture.
    """
    demand_known(name, RecipeError)
    arch = name.split(".")[0]
    if recorded is not None:
        return _create(arch, dict(recorded)), dict(recorded)
    args = dict(extra or {})
    if weights == "none":
        return _create(arch, args), args
    if weights == "imagenet":
        demand_published(name)
        try:
            return timm.create_model(name, pretrained=True, num_classes=0, **args), args
        except TypeError as error:
            raise _refusal(name, error) from error
        except Exception as error:  # the hub client raises many unrelated types when it is offline
            raise WeightsError(
                f"The weights of {name!r} could not be loaded ({type(error).__name__}): run `hf download"
                f" timm/{name}` where there is a network and share the hub cache (HF_HOME), or give a local"
                " folder or checkpoint file with segmenter.weights."
            ) from error
    path, file = Path(weights).expanduser(), weights
    if path.is_dir():
        values = folder_config(str(path))
        if values["architecture"] != arch:
            raise WeightsError(
                f"The folder {weights!r} holds a {values['architecture']}, but the segmenter's backbone is"
                f" {arch}."
            )
        args = {
            **{k: v for k, v in values.get("model_args", {}).items() if k != "in_chans" or v != 3},
            **args,
        }
        if int(args.get("in_chans", 3)) != 3:
            raise WeightsError(
                f"The network in {weights!r} takes {args['in_chans']} channels; segmentation reads colour"
                " images, so give weights for three."
            )
        found = [f for f in ("model.safetensors", "pytorch_model.bin") if (path / f).is_file()]
        if not found:
            raise WeightsError(f"The folder {weights!r} has no model.safetensors.")
        file = str(path / found[0])
    model = _create(arch, args)
    load_into(model, body_state(read_checkpoint(file), model).state, weights)
    return model, args


def look_at_body(name: str, weights: str) -> str:
    """What is chosen of a file's or folder's weights for the body, as a sentence or ''; only shapes are read.
    Raises WeightsError where :func:`timm_body` would."""
    path = Path(weights).expanduser()
    args = folder_config(str(path)).get("model_args", {}) if path.is_dir() else {}
    inner = [f for f in ("model.safetensors", "pytorch_model.bin") if (path / f).is_file()]
    if path.is_dir() and not inner:
        raise WeightsError(f"The folder {weights!r} has no model.safetensors.")
    file = str(path / inner[0]) if inner else str(path)
    model = weightless(lambda: _create(name.split(".")[0], args))
    found = body_state(read_checkpoint(file, shapes_only=True), model)
    demand_fit(model, found.state, weights)
    return found.note(weights)


def body_state(checkpoint: Checkpoint, model: nn.Module) -> Checkpoint:
    """The part of a checkpoint that fills ``model``, which has no classifier."""
    named = Checkpoint(from_transformers(checkpoint.state), checkpoint.said)
    names = model.state_dict().keys()
    found = arranged(named, [*names, "mask_token", "register_tokens"])
    state = as_timm(_without_classifier(found.state, model), model)
    return Checkpoint(state, found.said)


def _create(arch: str, args: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(arch, pretrained=False, num_classes=0, **args)
    except TypeError as error:
        raise _refusal(arch, error) from error


def _refusal(name: str, error: Exception) -> RecipeError:
    return RecipeError(
        f"timm cannot make {name!r} for segmentation ({error}): take a plain vision transformer for arch"
        " 'linear', a convolutional network for the others."
    )


def _without_classifier(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    heads = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return {k: v for k, v in state.items() if not any(k.startswith(f"{h}.") for h in heads)}

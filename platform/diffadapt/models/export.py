"""Write a trained classifier as a folder that timm, Hugging Face and this package load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from diffadapt.core.errors import DataError, WeightsError
from diffadapt.core.place import new_folder
from diffadapt.models.card import classifier_card
from diffadapt.models.classifier import FOLDER, Classifier, load_classifier
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.importers.openmmlab import check_openmmlab, is_openmmlab
from diffadapt.models.inputs import share, with_inputs
from diffadapt.models.state_dict import read_state_dict


def export_classifier(
    model: nn.Module,
    out_folder: str | Path,
    arch: str,
    config: ClassifierConfig,
    class_names: Sequence[str],
    extra: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Path:
    """config.json (timm's hub format), model.safetensors and README.md under ``out_folder``; returns the
    folder.

    ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads it (after importing
    ``diffadapt.models.cifar_resnet`` or ``diffadapt.models.mlp_head`` for those networks), and so does
    ``ClassifierConfig(name="<folder>")``. ``extra`` goes to config.json under ``diffadapt`` and fills the
    card: ``metrics``, ``data``, ``recipe``, ``recipe_digest``, ``limitations``, ``selection`` (how the epoch
    was chosen), ``generator`` (what made the training images); other names are listed. ``model_args``: what
    ``arch`` is created with; default: what the loader noted on the model, else its input channels.
    Raises DataError if the class names do not match the model's outputs.
    """
    model = model.model if isinstance(model, Classifier) else model
    if len(class_names) != model.num_classes:
        raise DataError(
            f"The classifier has {model.num_classes} classes but {len(class_names)} class names were given."
        )
    args = dict(getattr(model, "model_args", {}) if model_args is None else model_args)
    values = _hub_config(model, arch, config, class_names, extra or {}, args)
    return FOLDER.write(
        out_folder, model.state_dict(), values, classifier_card(arch, config, class_names, extra)
    )


def import_openmmlab(
    checkpoint: str, out_folder: str | Path, class_names: Sequence[str] | None = None
) -> float:
    """Export an OpenMMLab ResNet-50 or Swin-T/B checkpoint file as a timm-format folder under timm's names.

    Returns the largest relative logit difference from an independent forward pass over the original's
    parameters. Class names default to 0, 1, ... Raises WeightsError if the file is of another kind or the
    outputs differ.
    """
    state = {k.removeprefix("module."): v for k, v in read_state_dict(checkpoint).items()}
    if not is_openmmlab(state):
        raise WeightsError(
            f"The checkpoint {checkpoint!r} is not an OpenMMLab classifier: it lacks backbone.* or head.fc.*"
            " keys."
        )
    difference = check_openmmlab(state)
    config = ClassifierConfig(name=checkpoint)
    classifier = load_classifier(config)
    names = class_names if class_names is not None else [str(i) for i in range(classifier.num_classes)]
    origin = {
        "data": "ImageNet-1k, as its authors trained it",
        "origin": "OpenMMLab checkpoint",
        "revision": classifier.revision,
    }
    with new_folder(out_folder) as scratch:
        export_classifier(classifier, scratch, classifier.arch, config, names, origin)
    return difference


def _hub_config(
    model: nn.Module,
    arch: str,
    config: ClassifierConfig,
    class_names: Sequence[str],
    extra: Mapping[str, Any],
    args: Mapping[str, Any],
) -> dict[str, Any]:
    own, config = getattr(model, "pretrained_cfg", {}), with_inputs(config)
    pretrained = {
        "tag": "diffadapt",
        "custom_load": False,
        "input_size": [config.in_channels, config.crop, config.crop],
        "fixed_input_size": bool(own.get("fixed_input_size", False)),
        "interpolation": config.interpolation,
        "crop_pct": min(1.0, share(config.crop, config.resize)),
        "crop_mode": config.crop_mode,
        "mean": list(config.mean),
        "std": list(config.std),
        "num_classes": len(class_names),
        "pool_size": None,
        "first_conv": own.get("first_conv"),
        "classifier": own.get("classifier"),
    }
    return {
        "architecture": arch.split(".")[0],
        "num_classes": len(class_names),
        "num_features": int(model.num_features),
        "label_names": [str(name) for name in class_names],
        "model_args": {"in_chans": config.in_channels, **args},
        "pretrained_cfg": pretrained,
        "diffadapt": dict(extra),
    }

"""The body of a network to adapt: a timm model that maps images to features, without a classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diffadapt.compute.compiling import channels_last
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.classifier_source import classifier_revision
from diffadapt.models.config import BackboneConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.mlp_head import MlpHead


@dataclass(frozen=True)
class Backbone:
    """``module`` maps normalised images (B, in_channels, crop, crop) to features (B, width); in evaluation
    mode.

    ``timm.create_model(arch, num_classes=K, **model_args)`` makes the same network with a classifier;
    ``revision`` names the weights ('train' for random ones). The module carries ``model_args`` too, where
    models/mlp_head.py's join finds them.
    """

    module: nn.Module
    width: int
    arch: str
    model_args: dict[str, Any]
    revision: str


def load_backbone(
    config: BackboneConfig,
    device: str | torch.device = "cpu",
    folder: str | None = None,
    drop_path: float = 0.0,
) -> Backbone:
    """The network that ``config`` names, without its head.

    ``folder`` is a fitted classifier folder to take the body from instead; ``drop_path`` the stochastic depth
    that training wants. 'train' with ``arch`` starts from
    random weights: seed torch first. Raises RecipeError for 'train' without an architecture, or an input size
    that the network refuses; WeightsError for weights that are missing or do not fit.
    """
    config = with_inputs(config)
    if folder is None and config.name == "train":
        if not config.arch:
            raise RecipeError(
                "backbone.name is 'train' but backbone.arch is empty: name the timm architecture to train."
            )
        body = create_model(config.arch, 1, config.in_channels, drop_path, crop=config.crop)
        arch, args, revision = config.arch, dict(body.model_args), "train"
        body.reset_classifier(0)
    else:
        if folder is not None:
            config = replace(config, name=folder, arch=None)
        config = replace(config, num_classes=None)
        loaded = load_classifier(config, drop_path=drop_path)
        body, arch, args, revision = (
            loaded.model,
            loaded.arch,
            dict(loaded.model_args),
            classifier_revision(config),
        )
        if isinstance(body, MlpHead):
            arch = args.pop("backbone")
            args.pop("layers")
            body = body.backbone
        else:
            body.reset_classifier(0)
    body.model_args = args
    body = channels_last(body.eval(), device)
    return Backbone(body, _width(body, config), arch.split(".")[0], args, revision)


@torch.inference_mode()
def _width(body: nn.Module, config: BackboneConfig) -> int:
    """The features' width, from one grey image."""
    device = next(body.parameters()).device
    try:
        features = body(torch.zeros(1, config.in_channels, config.crop, config.crop, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"The backbone {config.name!r} refuses images of {config.crop} pixels"
            f" ({str(error).splitlines()[0]}): set backbone.crop to its input size."
        ) from error
    if features.ndim != 2:
        raise WeightsError(
            f"The backbone {config.name!r} gives features of shape {tuple(features.shape)}, but (images,"
            " width) is needed: use a timm classifier that pools."
        )
    return features.shape[1]

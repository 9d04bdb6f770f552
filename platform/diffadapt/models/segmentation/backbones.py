"""Convolutional backbones that give a pyramid of feature maps: torchvision's ResNets, and timm models of that
kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.classifier import weightless
from diffadapt.models.classifier_source import folder_config
from diffadapt.models.segmentation.source import TIMM, TORCHVISION, torchvision_file
from diffadapt.models.segmentation.timm_body import look_at_body, timm_body
from diffadapt.models.state_dict import arranged, demand_fit, load_into, read_checkpoint

PROBE = 64


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier: images (B, 3, H, W) -> the maps of layer1 to layer4,
    strides 4, 8, 16, 32.

    Parameter names are torchvision's, so that its checkpoints load.
    """

    multiple = 1
    strides = (4, 8, 16, 32)
    channels = (256, 512, 1024, 2048)

    def __init__(self, name: str):
        super().__init__()
        body = getattr(torchvision.models, name)(weights=None)
        for part, module in body.named_children():
            if part not in ("fc", "avgpool"):
                self.add_module(part, module)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class TimmPyramid(nn.Module):
    """A timm model with ``forward_intermediates``: images -> its feature maps (B, C, h, w), the deepest
    last."""

    multiple = 1

    def __init__(self, body: nn.Module, name: str):
        super().__init__()
        if not hasattr(body, "forward_intermediates"):
            raise RecipeError(
                f"The backbone {TIMM + name!r} gives no feature maps in this timm ({type(body).__name__}):"
                " take another, such as timm:resnet18 or timm:mobilenetv2_100."
            )
        if hasattr(body, "prune_intermediate_layers"):
            body.prune_intermediate_layers(
                list(range(len(body.feature_info))), prune_norm=True, prune_head=True
            )
        self.body = body
        training = body.training
        try:
            with torch.no_grad():
                maps = self.eval()(torch.zeros(1, 3, PROBE, PROBE))
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            raise RecipeError(
                f"The backbone {TIMM + name!r} cannot give feature maps of images of any size"
                f" ({str(error).splitlines()[0]}): take a convolutional one, such as timm:resnet18."
            ) from error
        self.train(training)
        self.channels = tuple(m.shape[1] for m in maps)
        self.strides = tuple(PROBE // m.shape[-1] for m in maps)
        if len(maps) < 2 or self.strides[-1] <= self.strides[0]:
            raise RecipeError(
                f"The backbone {TIMM + name!r} gives maps at strides {self.strides}, not a pyramid: use arch"
                " 'linear' for vision transformers."
            )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.body.forward_intermediates(x, intermediates_only=True)


def convolutional(
    name: str, weights: str, facts: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """(backbone, facts to build it again) of ``resnet50``, ``resnet101`` or ``timm:<name>``.

    ``weights``: imagenet, none, or a file or folder of the backbone's weights; ``facts``: of an earlier
    network, to be filled with its own weights. Raises WeightsError for weights that are missing or do not
    fit, RecipeError for a network of another kind.
    """
    if name.startswith(TIMM):
        body, args = timm_body(name.removeprefix(TIMM), weights, (facts or {}).get("args"))
        return TimmPyramid(body, name.removeprefix(TIMM)), {"args": args}
    backbone = ResNet(name)
    if facts is None and weights != "none":
        where = str(_published(name)) if weights == "imagenet" else _checkpoint(name, weights)
        state = arranged(read_checkpoint(where), backbone.state_dict()).state
        load_into(
            backbone,
            {k: v for k, v in state.items() if not k.startswith("fc.")},
            weights if weights != "imagenet" else where,
        )
    return backbone, {}


def look_at_backbone(name: str, weights: str) -> str:
    """What is chosen of a file's or folder's weights for torchvision's ResNet ``name`` or ``timm:<name>``, as
    a sentence or ''; only shapes are read. Raises WeightsError where :func:`convolutional` would."""
    if name.startswith(TIMM) or name not in TORCHVISION:
        return look_at_body(name.removeprefix(TIMM), weights)
    backbone = weightless(lambda: ResNet(name))
    found = arranged(read_checkpoint(_checkpoint(name, weights), shapes_only=True), backbone.state_dict())
    demand_fit(backbone, {k: v for k, v in found.state.items() if not k.startswith("fc.")}, weights)
    return found.note(weights)


def _published(name: str) -> Path:
    """torchvision's published file, from the cache of torch.hub or downloaded to it."""
    url, file = torchvision_file(name)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=TORCHVISION[name], progress=False)
        except Exception as error:  # urllib, ssl and socket raise many unrelated types
            raise WeightsError(
                f"torchvision's ImageNet weights of {name} could not be downloaded ({type(error).__name__}):"
                f" put {file.name} into {file.parent} by hand, or give the file with segmenter.weights."
            ) from error
    return file


def _checkpoint(name: str, weights: str) -> str:
    """The file with the weights; of a folder in timm's format, whose ResNets have the same parameter
    names."""
    path = Path(weights).expanduser()
    if not path.is_dir():
        return str(path)
    arch = folder_config(str(path))["architecture"]
    if arch != name:
        raise WeightsError(f"The folder {weights!r} holds a {arch}, but the segmenter's backbone is {name}.")
    return str(path / "model.safetensors")

"""A segmentation network from its configuration."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.network import SegmentationNetwork
from diffadapt.models.segmentation.source import check_segmenter

WIDTH = 256


def build_segmenter(config: SegmenterConfig, classes: int) -> SegmentationNetwork:
    """The network with the backbone's first weights and a random head, in training mode: seed torch first.

    It has ``classes`` outputs and one more with ``config.void_channel``. Raises RecipeError for a network
    that cannot be made, WeightsError for weights that are missing, unreadable or of another network.
    """
    check_segmenter(config)
    net = _assemble(config, classes, None)
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    given = config.weights not in ("imagenet", "none") and not config.frozen
    if given and norms and all(_untouched(norm) for norm in norms):
        warnings.warn(
            f"The batch norms of {config.weights!r} have no statistics (mean 0 and variance 1 everywhere), so"
            " that training changes what the network computes from its first step on: set segmenter.frozen,"
            " or import the weights again with --images.",
            stacklevel=2,
        )
    return net


def _untouched(norm: nn.BatchNorm2d) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool((mean == 0).all() and (variance == 1).all())


def rebuild_segmenter(config: SegmenterConfig, classes: int, facts: Mapping[str, Any]) -> SegmentationNetwork:
    """The network of :attr:`SegmentationNetwork.facts`, its parameters random: nothing is downloaded and no
    weights are read."""
    return _assemble(config, classes, facts)


def _assemble(
    config: SegmenterConfig, classes: int, recorded: Mapping[str, Any] | None
) -> SegmentationNetwork:
    outputs = classes + config.void_channel
    make = {"segformer": _segformer, "linear": _linear}.get(config.arch, _convolutional)
    backbone, head, facts = make(config, outputs, recorded)
    return SegmentationNetwork(backbone, head, outputs, config.frozen, facts).train()


def _segformer(
    config: SegmenterConfig, outputs: int, recorded: Mapping[str, Any] | None
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    from diffadapt.models.segmentation.segformer import MlpHead, mix_transformer

    backbone, facts = mix_transformer(config.backbone, config.weights, recorded)
    return (
        backbone,
        MlpHead(backbone.channels, outputs, config.width or facts["decoder_hidden_size"], config.dropped),
        facts,
    )


def _linear(
    config: SegmenterConfig, outputs: int, recorded: Mapping[str, Any] | None
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    from diffadapt.models.segmentation.linear import LinearHead, vision_transformer

    backbone, facts = vision_transformer(config.backbone, config.weights, config.layers, recorded)
    return backbone, LinearHead(backbone.channels, outputs), facts


def _convolutional(
    config: SegmenterConfig, outputs: int, recorded: Mapping[str, Any] | None
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    from diffadapt.models.segmentation.backbones import convolutional

    backbone, facts = convolutional(config.backbone, config.weights, recorded)
    width = config.width or WIDTH
    if config.arch == "refinenet_2pool":
        from diffadapt.models.segmentation.refinenet_2pool import TwoPoolHead

        return backbone, TwoPoolHead(backbone.channels, outputs, width, config.dropped), facts
    from diffadapt.models.segmentation.deeplabv3plus import DeepLabHead, TwoConvHead
    from diffadapt.models.segmentation.refinenet import RefineNetHead

    heads = {
        "deeplabv3plus": DeepLabHead,
        "deeplabv3plus_2conv": TwoConvHead,
        "refinenet": RefineNetHead,
    }
    head = heads[config.arch](backbone.channels, backbone.strides, outputs, width, config.dropped)
    return backbone, head, facts

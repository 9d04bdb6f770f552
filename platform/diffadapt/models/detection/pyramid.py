"""torchvision's detection heads behind a feature pyramid on a backbone of one's own choice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from diffadapt.models.detection.config import DetectorConfig

SMALLEST_STRIDE = 4
"""Finer maps than this give no detections."""

_FEWER = {
    "rpn_pre_nms_top_n_train": 500,
    "rpn_pre_nms_top_n_test": 500,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 200,
    "box_batch_size_per_image": 64,
}
"""Proposals of Faster R-CNN on small images."""


class Tiny(nn.Module):
    """Images (B, 3, H, W) -> maps at strides 4, 8 and 16; group norm, so that small batches train well; 0.3
    million parameters."""

    strides = (4, 8, 16)
    channels = (32, 64, 96)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2))
        self.stages = nn.ModuleList(
            [
                _Residual(32),
                nn.Sequential(_conv(32, 64, 2), _Residual(64)),
                nn.Sequential(_conv(64, 96, 2), _Residual(96)),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """Images -> maps by name, each with ``out_channels``; ``body`` gives the backbone's own maps, the deepest
    last."""

    def __init__(self, backbone: nn.Module, channels: int, extra: str):
        super().__init__()
        first = next(
            i
            for i, s in enumerate(backbone.strides)
            if s >= SMALLEST_STRIDE or i == len(backbone.strides) - 1
        )
        self.body = _Maps(backbone, first)
        self.strides = list(backbone.strides[first:])
        more = {"": None, "pool": LastLevelMaxPool(), "convolutions": LastLevelP6P7(channels, channels)}[
            extra
        ]
        self.fpn = FeaturePyramidNetwork(list(backbone.channels[first:]), channels, more)
        self.strides += [self.strides[-1] * 2] * (extra == "pool") + [
            self.strides[-1] * 2,
            self.strides[-1] * 4,
        ] * (extra == "convolutions")
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class _Maps(nn.Module):
    def __init__(self, backbone: nn.Module, first: int):
        super().__init__()
        self.backbone, self.first = backbone, first

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict((str(i), m) for i, m in enumerate(self.backbone(x)[self.first :]))


def with_head(
    config: DetectorConfig, classes: int, facts: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """(torchvision's detector of ``config.arch`` for ``classes`` classes and background, facts of the
    backbone).

    ``facts``: of an earlier network, to be filled with its own weights. Raises what
    models/segmentation/backbones.py raises.
    """
    small = config.backbone == "tiny"
    if small:
        backbone, known = Tiny(), {}
    else:
        from diffadapt.models.segmentation.backbones import convolutional

        wanted = config.weights if config.weights == "imagenet" else "none"
        backbone, known = convolutional(config.backbone, wanted, (facts or {}).get("backbone"))
    head = config.arch
    body = Pyramid(
        backbone, 64 if small else 256, "" if small else "pool" if head == "fasterrcnn" else "convolutions"
    )
    common = {
        "nms_thresh": config.overlap,
        "detections_per_img": config.detections,
        "score_thresh": config.score,
    }
    if head == "fcos":
        anchors = AnchorGenerator(tuple((s,) for s in body.strides), ((1.0,),) * len(body.strides))
        outputs = FCOSHead(body.out_channels, 1, classes + 1, 2 if small else 4)
        # A box's four distances pass a ReLU: started at 0, one of them can die in the first steps and never
        # come back (measured).
        nn.init.ones_(outputs.regression_head.bbox_reg.bias)
        made = FCOS(body, classes + 1, anchor_generator=anchors, head=outputs, **common)
    elif head == "retinanet":
        sizes = tuple(
            tuple(round((2 if small else 4) * s * 2 ** (i / 3)) for i in range(3)) for s in body.strides
        )
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        outputs = RetinaNetHead(
            body.out_channels, anchors.num_anchors_per_location()[0], classes + 1, partial(nn.GroupNorm, 32)
        )
        made = RetinaNet(body, classes + 1, anchor_generator=anchors, head=outputs, **common)
    else:
        anchors = AnchorGenerator(
            tuple((2 * s if small else 8 * s,) for s in body.strides), ((0.5, 1.0, 2.0),) * len(body.strides)
        )
        levels = [str(i) for i in range(len(backbone.strides[body.body.first :]))]
        made = FasterRCNN(
            body, classes + 1, rpn_anchor_generator=anchors, box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
            **{f"box_{k}": v for k, v in common.items()}, **(_FEWER if small else {}),
        )  # fmt: skip
    return made, {"backbone": known}


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()
    )

"""Residual networks for small images (He et al. 2016, "Deep Residual Learning", section 4.2), registered with
timm.

Three stages of n blocks with 16, 32 and 64 channels, depth 6n + 2, and parameter-free shortcuts (option A:
every second pixel, missing channels zero). Any input size of at least 4 pixels and any number of channels.
Parameter names are those of the public CIFAR-10 checkpoints of this network (conv1, bn1, layer1.0.conv1, ...,
linear).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import build_model_with_cfg, register_model
from torch import nn

DEPTHS = (8, 20, 32, 44, 56, 110)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, drop_path: float):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.stride, self.missing = stride, outputs - inputs

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1 and not self.missing:
            return x
        before = self.missing // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.drop_path(self.bn2(self.conv2(y)))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Images (B, in_chans, H, W), normalised -> logits (B, num_classes); the usual timm feature methods."""

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__()
        if (depth - 2) % 6 or depth < 8:
            raise ValueError(f"depth {depth} is not 6n + 2")
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is {global_pool!r}; these networks know 'avg' and ''")
        self.num_classes, self.drop_rate, self.global_pool = num_classes, drop_rate, global_pool
        self.num_features = self.head_hidden_size = 64
        blocks = (depth - 2) // 6
        rates = torch.linspace(0, drop_path_rate, 3 * blocks).tolist()
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.feature_info, inputs = [], 16
        for stage, width in enumerate((16, 32, 64)):
            layers = []
            for i in range(blocks):
                stride = 2 if stage and i == 0 else 1
                layers.append(Block(inputs, width, stride, rates[stage * blocks + i]))
                inputs = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            self.feature_info.append(dict(num_chs=width, reduction=2**stage, module=f"layer{stage + 1}"))
        self.linear = nn.Linear(64, num_classes) if num_classes > 0 else nn.Identity()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.linear = nn.Linear(64, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The last stage's feature map (B, 64, H/4, W/4)."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_intermediates(self, x: torch.Tensor, intermediates_only: bool = False) -> Any:
        """The maps of the three stages, strides 1, 2 and 4; unless ``intermediates_only``, (the last one, all
        three)."""
        x, maps = self.act1(self.bn1(self.conv1(x))), []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            maps.append(x)
        return maps if intermediates_only else (x, maps)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pooled features (B, 64) with ``pre_logits``, else logits."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x
        return x if pre_logits else self.linear(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


_CFG = dict(
    input_size=(3, 32, 32),
    min_input_size=(3, 4, 4),
    num_classes=10,
    pool_size=(8, 8),
    crop_pct=1.0,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    first_conv="conv1",
    classifier="linear",
)


def _create(depth: int, pretrained: bool, kwargs: dict[str, Any]) -> CifarResNet:
    for unused in ("cache_dir", "zero_init_last"):
        kwargs.pop(unused, None)
    cfg = kwargs.pop("pretrained_cfg", None) or dict(_CFG, architecture=f"cifar_resnet{depth}")
    return build_model_with_cfg(
        CifarResNet,
        f"cifar_resnet{depth}",
        pretrained,
        pretrained_cfg=cfg,
        feature_cfg=dict(out_indices=(0, 1, 2)),
        depth=depth,
        **kwargs,
    )


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(8, pretrained, kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(20, pretrained, kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(32, pretrained, kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(44, pretrained, kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(56, pretrained, kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create(110, pretrained, kwargs)

"""A segmentation network: a backbone that gives feature maps, and a head that gives coarse logits from
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SegmentationNetwork(nn.Module):
    """Normalised images (B, 3, H, W) -> (logits (B, outputs, H, W) float32, features (B, F, h, w) of the
    deepest backbone layer).

    ``backbone(x)`` gives feature maps, the deepest last; ``head(maps)`` gives logits at the size of one of
    them, which are brought to x's size bilinearly (align_corners=False). Images of any size that the backbone
    takes: sides that are no multiple of ``backbone.multiple`` are padded with zeros (the mean colour) at the
    right and bottom, and the logits are cropped again.

    ``facts`` (JSON values) are what the same network is built from again without its published weights. With
    ``frozen`` the backbone stays in evaluation mode, its parameters need no gradient, and no graph is kept of
    it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        outputs: int,
        frozen: bool = False,
        facts: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.backbone, self.head, self.outputs, self.frozen = backbone, head, outputs, frozen
        self.facts = dict(facts or {})
        if frozen:
            backbone.requires_grad_(False)
        self.train(self.training)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape[-2:]
        multiple = self.backbone.multiple
        down, right = -height % multiple, -width % multiple
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.backbone(x)
        logits = F.interpolate(
            self.head(maps).float(), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        return logits[..., :height, :width], maps[-1]

    def train(self, mode: bool = True) -> SegmentationNetwork:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The backbone's parameters that are trained: none when it is frozen."""
        return (p for p in self.backbone.parameters() if p.requires_grad)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return iter(self.head.parameters())

    def portable_state(self) -> dict[str, torch.Tensor]:
        """The state dict under names that do not depend on the version of a library."""
        renamed = getattr(self.backbone, "portable_state", None)
        if renamed is None:
            return self.state_dict()
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        return {**{f"backbone.{k}": v for k, v in renamed().items()}, **own}


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; the size is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1):
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


def resize(x: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Feature maps brought to ``size`` bilinearly, unless they have it."""
    return (
        x
        if tuple(x.shape[-2:]) == tuple(size)
        else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    )

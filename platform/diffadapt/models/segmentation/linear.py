"""A linear head on the patch features of a vision transformer: DINOv2's protocol for segmentation (Oquab et
al. 2023, section 7.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from diffadapt.core.errors import RecipeError
from diffadapt.models.segmentation.source import TIMM
from diffadapt.models.segmentation.timm_body import timm_body


class PatchFeatures(nn.Module):
    """A timm vision transformer: images whose sides are multiples of the patch -> normalised patch tokens (B,
    D, h, w) of its last ``layers`` blocks, the deepest last. Position embeddings are resized to the image."""

    def __init__(self, body: nn.Module, name: str, layers: int):
        super().__init__()
        blocks = len(getattr(body, "blocks", ()))
        if not blocks or not hasattr(body, "forward_intermediates"):
            raise RecipeError(
                f"The backbone {name!r} is no plain vision transformer, which arch 'linear' reads patches of."
            )
        if layers > blocks:
            raise RecipeError(f"segmenter.layers is {layers}, but {name!r} has {blocks} blocks.")
        body.prune_intermediate_layers(
            list(range(blocks - layers, blocks)), prune_norm=False, prune_head=True
        )
        if isinstance(getattr(body, "norm", None), nn.Identity):
            body.norm = nn.LayerNorm(body.num_features)  # models that pool before their norm have none here
        self.body, self.layers = body, layers
        self.channels = (int(body.num_features),) * layers
        patch = body.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise RecipeError(
                f"The backbone {name!r} has patches of {tuple(patch)}: take one with square patches."
            )
        self.multiple = int(patch[0])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.body.forward_intermediates(x, indices=self.layers, norm=True, intermediates_only=True)


class LinearHead(nn.Module):
    """Patch features, concatenated -> batch norm -> 1x1 convolution: logits (B, outputs, h, w)."""

    def __init__(self, channels: Sequence[int], outputs: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(channels))
        self.classifier = nn.Conv2d(sum(channels), outputs, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        x = maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)
        return self.classifier(self.norm(x))


def vision_transformer(
    name: str, weights: str, layers: int, facts: Mapping[str, Any] | None = None
) -> tuple[PatchFeatures, dict[str, Any]]:
    """(backbone, facts to build it again) of a timm vision transformer; see :func:`timm_body` for weights and
    errors."""
    name = name.removeprefix(TIMM)
    body, args = timm_body(name, weights, (facts or {}).get("args"), {"dynamic_img_size": True})
    return PatchFeatures(body, name, layers), {"args": args}

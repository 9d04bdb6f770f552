"""Features in front of a classifier's last linear layer, whatever its architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def penultimate(model: nn.Module, x: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(features (B, D), logits (B, classes)): what goes into the last Linear (or 1x1 convolution) with
    ``classes`` outputs, float32.

    A model without such a layer gives its logits as features.
    """
    seen: list[torch.Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[:] = [inputs[0]]

    wanted = [m for m in model.modules() if _outputs(m) == classes]
    hooks = [m.register_forward_hook(keep) for m in wanted]
    try:
        logits = model(x).float()
    finally:
        for hook in hooks:
            hook.remove()
    return (seen[0].float().flatten(1) if seen else logits), logits


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) else 0

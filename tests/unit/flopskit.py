"""Networks for tests of counting, as models/shells.py has them."""

from __future__ import annotations

import torch
from torch import nn


def linear(width: int) -> tuple[nn.Module, tuple[torch.Tensor]]:
    return nn.Linear(width, width), (torch.empty(1, width),)


def chain(width: int, layers: int) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Square layers with an activation whose input the backward pass needs."""
    parts = [m for _ in range(layers) for m in (nn.Linear(width, width, bias=False), nn.SiLU())]
    return nn.Sequential(*parts), (torch.empty(1, width),)


def broken() -> tuple[nn.Module, tuple[torch.Tensor]]:
    raise ValueError("no such network")

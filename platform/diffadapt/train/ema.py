"""Exponential moving average of a module's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class Ema:
    """Shadow weights: w_ema <- d w_ema + (1 - d) w for floating-point parameters; everything else is copied.

    With ``warmup`` the decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that short runs do
    not keep their random initialisation.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999, warmup: bool = True):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay} is outside [0, 1)")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present weights (the same keys as at construction)."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        self.updates += 1
        averaged = {k for k, p in module.named_parameters() if p.is_floating_point()}
        shadows, values = [], []
        for key, value in module.state_dict().items():
            if key in averaged:
                shadows.append(self.shadow[key])
                values.append(value.detach().to(self.shadow[key].device))
            else:
                self.shadow[key].copy_(value)
        if shadows:
            torch._foreach_lerp_(shadows, values, 1.0 - decay)  # on CUDA a kernel or two for all of them

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's weights by the average."""
        module.load_state_dict(self.shadow)

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with averaged weights inside the context; its own weights come back afterwards."""
        own = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.copy_to(module)
        try:
            yield module
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state["shadow"]) != set(self.shadow):
            raise ValueError("the EMA state is of another module: its keys differ")
        self.updates = int(state["updates"])
        for key, value in state["shadow"].items():
            self.shadow[key].copy_(value)

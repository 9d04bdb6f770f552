"""Optimisers and learning-rate schedules of classifier training (SDA Table 7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from diffadapt.core.errors import RecipeError
from diffadapt.train.config import FitConfig


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW with betas (0.9, 0.999), over the parameters that require gradients."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999))


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser that can update all its weights in one kernel do so, where they are on CUDA."""
    for group in optimizer.param_groups:
        if "fused" in group and all(p.is_cuda and p.is_floating_point() for p in group["params"]):
            group.update(fused=True, foreach=False)


def parameter_groups(model: nn.Module, config: FitConfig) -> list[dict]:
    """Parameter groups with and without weight decay.

    Without ``decay_norm_and_bias``, one-dimensional parameters (norms, biases, scales) and those that the
    model names in ``no_weight_decay()`` (position embeddings and biases) are not decayed.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if config.decay_norm_and_bias:
        return [{"params": [p for _, p in named], "weight_decay": config.weight_decay}]
    spared = getattr(model, "no_weight_decay", set)()
    free = {n for n, p in named if p.ndim <= 1 or any(n == s or n.endswith(f".{s}") for s in spared)}
    return [
        {"params": [p for n, p in named if n not in free], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if n in free], "weight_decay": 0.0},
    ]


def make_schedule(config: FitConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """``rate(step)``: linear warm-up from ``warmup_lr``, then constant, x0.1 at each milestone epoch, or
    cosine.

    The cosine runs from ``lr`` at the end of the warm-up to ``min_lr`` after the last step; both move every
    step. Raises RecipeError if the warm-up is longer than the training.
    """
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if config.warmup_epochs > config.epochs:
        raise RecipeError(
            f"The warm-up of {config.warmup_epochs} epochs is longer than the training of {config.epochs}."
        )

    def rate(step: int) -> float:
        if step < warmup:
            return config.warmup_lr + (config.lr - config.warmup_lr) * step / warmup
        if config.schedule == "constant":
            return config.lr
        if config.schedule == "step":
            return config.lr * 0.1 ** sum(step >= m * steps_per_epoch for m in config.milestones)
        done = (step - warmup) / max(1, total - warmup)
        return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * done))

    return rate


def warm_cosine(step: int, lr: float, warmup: int, total: int) -> float:
    """The rate of ``step``: a linear rise over ``warmup`` steps, then a cosine to 0 at ``total``."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1.0 + float(np.cos(np.pi * (step - warmup) / max(1, total - warmup))))

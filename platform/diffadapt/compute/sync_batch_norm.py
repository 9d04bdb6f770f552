"""Batch normalisation with statistics over all workers, on any device (torch's own needs CUDA).

A layer changes its class and back, so that its name, weights and running averages stay what they were.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diffadapt.compute.distributed import world_size


def synchronise(module: nn.Module) -> nn.Module:
    """Every batch norm of ``module`` (timm's with a built-in activation too) takes the global batch's
    statistics, in place."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _Synchronised):
            layer.__class__ = _synchronised(type(layer))
    return module


def separate(module: nn.Module) -> nn.Module:
    """Undo :func:`synchronise`, in place."""
    for layer in module.modules():
        if isinstance(layer, _Synchronised):
            layer.__class__ = type(layer).plain
    return module


class _Synchronised:
    plain: type


@functools.cache
def _synchronised(plain: type) -> type:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return plain.forward(self, x)
        x = _normalise(self, x)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x

    return type(f"Synchronised{plain.__name__}", (_Synchronised, plain), {"forward": forward, "plain": plain})


def _normalise(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """``x`` (B, C, ...) normalised over the batch and positions of all workers, with updated running
    averages."""
    y = x if x.dtype == torch.float64 else x.float()
    dims = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = _Sum.apply(y.new_tensor(float(x.numel() // x.shape[1])))
    mean = _Sum.apply(y.sum(dims)) / count
    centred = y - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    if layer.track_running_stats and layer.running_mean is not None:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            share = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
            layer.running_var.lerp_(
                (variance * count / (count - 1).clamp(min=1)).to(layer.running_var.dtype), share
            )
    y = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        y = torch.addcmul(layer.bias.view(shape), y, layer.weight.view(shape))
    return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over workers; its gradient is the sum of the workers' gradients, as each worker's loss depends
    on it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient

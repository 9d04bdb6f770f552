"""Batches that lie on several workers, for losses that couple the images of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Workers of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: torch.Tensor) -> torch.Tensor:
    """The rows (B, ...) of all workers in rank order, (world B, ...), with gradients; every worker must bring
    as many rows.

    A loss of gathered rows has the same value on every worker, and after DistributedDataParallel's mean its
    gradient equals that of one worker on the whole batch: the backward pass sums over the workers' copies of
    the loss.
    """
    return _Gather.apply(x) if world_size() > 1 else x


def rank() -> int:
    """This worker's number; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def share(count: int) -> range:
    """This worker's consecutive part of ``count`` items; parts differ by at most one item."""
    size, mine = world_size(), rank()
    return range(count * mine // size, count * (mine + 1) // size)


def gather_shares(part: torch.Tensor, count: int) -> torch.Tensor:
    """The rows (count, ...) of all workers' :func:`share` of ``count`` items, in order, on every worker (no
    gradient)."""
    size = world_size()
    if size == 1:
        return part
    longest = -(-count // size)
    padded = part.new_zeros((longest, *part.shape[1:]))
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([p[: count * (r + 1) // size - count * r // size] for r, p in enumerate(parts)])


@torch.no_grad()
def same_buffers(module: torch.nn.Module) -> None:
    """Give every worker rank 0's buffers (running averages), which otherwise drift apart between forward
    passes."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]

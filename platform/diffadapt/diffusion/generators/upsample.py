"""The fixed upsampling between a generator's native size and the image size, and its least-squares
inverse."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]


def upsample(x: Tensor, factor: int, kind: Filter = "bicubic") -> Tensor:
    """(B, C, H, W) -> (B, C, factor H, factor W): PIL's filter of that name (bicubic a = -0.5), edges
    renormalised.

    The result of bicubic may overshoot the input's range slightly.
    """
    if factor == 1:
        return x
    rows, columns = _operator(x.shape[-2], factor, kind).to(x), _operator(x.shape[-1], factor, kind).to(x)
    return rows @ x @ columns.T


def native(x: Tensor, factor: int, kind: Filter = "bicubic") -> Tensor:
    """The small image whose upsampling is nearest to ``x`` in the mean square; inverts :func:`upsample`
    exactly.

    (B, C, H, W) -> (B, C, H / factor, W / factor); H and W must be multiples of ``factor`` (ValueError).
    """
    if factor == 1:
        return x
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(f"an image of {tuple(x.shape[-2:])} cannot be made {factor} times smaller")
    rows = _inverse(x.shape[-2] // factor, factor, kind).to(x)
    columns = _inverse(x.shape[-1] // factor, factor, kind).to(x)
    return rows @ x @ columns.T


@lru_cache(maxsize=32)
def _operator(size: int, factor: int, kind: Filter) -> Tensor:
    """float64 matrix (factor size, size); every row sums to 1."""
    # A square image: torch's antialiased interpolation returns wrong values for images one pixel wide.
    basis = torch.eye(size, dtype=torch.float64)[None, None]
    return F.interpolate(basis, (size * factor, size), mode=kind, antialias=True)[0, 0]


@lru_cache(maxsize=32)
def _inverse(size: int, factor: int, kind: Filter) -> Tensor:
    return torch.linalg.pinv(_operator(size, factor, kind))

"""Numeric precision of a forward pass by the names that the recipes use: fp32, tf32, bf16, fp16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """Autocast to bf16 or fp16 on ``device``; fp32 and tf32 compute in float32 and need none."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


@contextlib.contextmanager
def float32_mode(precision: str) -> Iterator[None]:
    """Whether float32 products may use TF32 units: yes for ``tf32``, no for ``fp32``; untouched otherwise.

    Convolutions use TF32 by torch's default, so a run that says fp32 has to switch it off.
    """
    if precision not in ("fp32", "tf32"):
        yield
        return
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def full(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32 where mixed precision made it coarser."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

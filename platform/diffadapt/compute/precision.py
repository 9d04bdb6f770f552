"""Numeric precision of a forward pass by the names that the recipes use: auto, fp32, tf32, bf16, fp16."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

import torch

_log = logging.getLogger(__name__)
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_on(device: torch.device | str, precision: str, field: str = "precision") -> str:
    """The precision to compute in on ``device``: fp32 for an ``auto`` that no device has decided, and for
    fp16 on a CPU, which has no units for it (one forward of ADM takes two hours there); that is logged once
    with the recipe's ``field``."""
    if precision == "fp16" and torch.device(device).type == "cpu":
        _say_fallback(field)
        return "fp32"
    return "fp32" if precision == "auto" else precision


def dtype_of(precision: str) -> torch.dtype:
    """The type of weights and activations that are kept in ``precision`` throughout."""
    return HALVES.get(precision, torch.float32)


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """Autocast to bf16 or fp16 on ``device``; fp32 and tf32 compute in float32 and need none, nor does what
    :func:`precision_on` makes fp32."""
    device = torch.device(device)
    dtype = HALVES.get(precision_on(device, precision))
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def float32_mode(precision: str) -> Iterator[None]:
    """Whether float32 products may use TF32 units: yes for ``tf32``, no for ``fp32`` and an ``auto`` that no
    device has decided; untouched otherwise.

    Convolutions use TF32 by torch's default, so a run that says fp32 has to switch it off.
    """
    if precision in HALVES:
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


def float32_parts(precision: str) -> contextlib.AbstractContextManager:
    """:func:`float32_mode` for a network of which parts stay in float32: these may use TF32 unless all of it
    is fp32."""
    return float32_mode("fp32" if precision in ("fp32", "auto") else "tf32")


def full(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32 where mixed precision made it coarser."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@functools.cache
def _say_fallback(field: str) -> None:
    _log.warning("A CPU computes in fp32 what the recipe asks for in fp16 (%s).", field)

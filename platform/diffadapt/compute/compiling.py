"""Compiled networks: when they are, and batches that keep one shape so that nothing is compiled twice."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import torch

_log = logging.getLogger(__name__)
T = TypeVar("T")


def wants_compilation(asked: bool | None, device: torch.device | str) -> bool:
    """What a recipe asks for, and where it asks nothing (None): on CUDA, if what torch.compile needs there is
    installed, which is said once if it is not."""
    if asked is not None:
        return asked
    if torch.device(device).type != "cuda":
        return False
    lacking = _lacking()
    if lacking:
        _say_lacking(lacking)
    return not lacking


class OneShape:
    """How many items a compiled network is shown at a time: as many as the most it was shown, so that a last
    batch, padded with copies, is not compiled anew. Not ``on``: what there is.

    A batch that fails is forgotten: the next one may be smaller, because memory did not suffice.
    """

    def __init__(self, on: bool):
        self.on, self._sizes = on, {}

    @contextlib.contextmanager
    def padding(self, count: int, key: Hashable = None) -> Iterator[int]:
        """How many copies ``count`` items need beside them; ``key`` is what else decides their shape."""
        size = max(count, self._sizes.get(key, 0)) if self.on else count
        try:
            yield size - count
        except BaseException:
            self._sizes.pop(key, None)
            raise
        self._sizes[key] = size


def filled(items: Sequence[T], copies: int) -> list[T]:
    """``items`` and so many copies of the first."""
    return [*items, *[items[0]] * copies]


def filled_tensor(x: torch.Tensor, copies: int) -> torch.Tensor:
    """(B, ...) -> (B + copies, ...): the same of a tensor's rows."""
    return torch.cat([x, x[:1].expand(copies, *x.shape[1:])]) if copies else x


@contextlib.contextmanager
def fixed_shapes(device: torch.device | str, on: bool = True) -> Iterator[None]:
    """cuDNN measures which algorithm is fastest for a shape, which pays where shapes stay; ``on`` says that
    they do. Nothing on a CPU."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or (on and torch.device(device).type == "cuda")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def channels_last(module: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """``module`` on ``device``; on CUDA the weights of convolutions lie channels last, which its units for
    matrices want, and activations follow them."""
    module = torch.nn.Module.to(module, device)  # diffusers' own `to` warns where there is nothing to warn of
    if torch.device(device).type == "cuda" and any(isinstance(m, torch.nn.Conv2d) for m in module.modules()):
        module = torch.nn.Module.to(module, memory_format=torch.channels_last)
    return module


def _lacking() -> str:
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    return "" if any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))) else "a C compiler"


@functools.cache
def _say_lacking(what: str) -> None:
    _log.warning("Networks are not compiled, because torch.compile lacks %s: install it for speed.", what)

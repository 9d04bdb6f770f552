"""FLOPs and live memory of what runs on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Tally:
    """A context that counts: ``flops`` (torch's flop counter; a multiplication and an addition are two),
    ``peak``: most bytes of tensors alive at once that are not among ``held``.

    Attention is counted as the fused kernel that devices run: its matrix of weights is never whole in memory.
    """

    def __init__(self, held: Iterable[Tensor]):
        self._live = _Live(held)
        self._counter = FlopCounterMode(display=False)
        self._fused = _Fused()

    def __enter__(self) -> Tally:
        for mode in (self._fused, self._live, self._counter):
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in (self._counter, self._live, self._fused):
            mode.__exit__(*error)

    @property
    def flops(self) -> int:
        return self._counter.get_total_flops()

    @property
    def peak(self) -> int:
        return self._live.peak


class _Live(TorchDispatchMode):
    """Follows the storages that operators return until nothing holds them."""

    def __init__(self, held: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._add(t.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        name = storage._cdata
        if name in self._known:
            return
        self._known.add(name)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, name, size)

    def _gone(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


class _Fused(TorchFunctionMode):
    """Scaled dot-product attention as the memory-efficient kernel, of which the meta device knows shapes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_attention if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    lead = query.shape[:-3]
    q, k, v = (t.expand(*lead, *t.shape[-3:]).flatten(0, -4) if t.ndim > 4 else t[None] if t.ndim == 3 else t
               for t in (query, key, value))  # fmt: skip
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    out = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, grad, dropout_p, is_causal, scale=scale
    )[0]
    return out.reshape(*query.shape[:-1], value.shape[-1])

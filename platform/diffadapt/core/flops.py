"""What a stage asks of a device: calls of networks an item, and what such a call costs. Knows no torch.

A stage says its calls (:meth:`Stage.calls`); a network is described so that it can be built without weights,
and what one pass of it costs is counted once for each description (models/counts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from diffadapt.core.config import AUTO
from diffadapt.core.identity import canonical_json, digest

Mode = Literal["forward", "gradient", "training"]
"""forward: no gradient; gradient: forward and backward to the input, the weights frozen; training: forward
and backward to the weights."""


@dataclass(frozen=True)
class Network:
    """A network that can be built on the meta device: ``build``, 'module:function', is called with
    ``settings`` (canonical JSON of keywords) and returns the module and its inputs for one item. ``name`` is
    for people."""

    build: str
    settings: str
    name: str = ""

    @classmethod
    def of(cls, build: str, name: str, **settings: Any) -> Network:
        return cls(build, canonical_json(settings), name)

    @cached_property
    def digest(self) -> str:
        return digest([self.build, self.settings])


@dataclass(frozen=True)
class Call:
    """``passes`` of ``network`` an item (of a fit: a sample that it sees). ``batch``: how many items the
    device holds at once; ``states``: copies of the weights beside them that a training keeps (gradients,
    moments, averages)."""

    network: Network
    passes: float = 1.0
    mode: Mode = "forward"
    precision: str = "fp32"
    batch: int = 1
    states: int = 0
    casts: bool = False
    """Whether the weights themselves have the precision (else they stay in float32)."""

    @property
    def key(self) -> str:
        return f"{self.network.digest}:{self.mode}"


@dataclass(frozen=True)
class Count:
    """One pass for one item: ``flops`` (a multiplication and an addition are two), ``weights`` (parameters
    and buffers), ``memory`` (most bytes of float32 activations that are alive at once)."""

    flops: float
    weights: float
    memory: float


class Counts(Protocol):
    """What passes cost."""

    def of(self, network: Network, mode: Mode) -> Count | None:
        """None where it cannot be counted."""
        ...

    def known(self, key: str) -> Count | None:
        """That of :attr:`Call.key`, if it was counted before."""
        ...


@dataclass(frozen=True)
class Need:
    """What one item of a stage costs: ``flops`` by precision; ``memory`` in bytes of a device at the default
    batch, its weights included; ``batch``."""

    flops: Mapping[str, float]
    memory: float
    batch: int

    @property
    def total(self) -> float:
        return sum(self.flops.values())


RUNTIME = 1.0e9
"""Bytes that the device's runtime and its libraries take beside the tensors (assumed)."""
HALF = ("bf16", "fp16")


def need(calls: Sequence[Call] | None, counts: Counts) -> Need | None:
    """What ``calls`` cost by ``counts``, in float32 where no device has decided; None where a network cannot
    be counted, or no call is known."""
    if calls is None:
        return None
    flops: dict[str, float] = {}
    weights = memory = 0.0
    for call in calls:
        found = counts.of(call.network, call.mode)
        if found is None:
            return None
        precision = "fp32" if call.precision == AUTO else call.precision
        flops[precision] = flops.get(precision, 0.0) + call.passes * found.flops
        half = call.precision in HALF
        weights += found.weights * ((2 if half and call.casts else 4) + 4 * call.states)
        memory = max(memory, call.batch * found.memory * (0.5 if half else 1.0))
    batch = max((call.batch for call in calls), default=0)
    return Need(flops, weights + memory + RUNTIME * bool(calls), batch)


def passes(calls: Sequence[Call] | None) -> dict[str, float]:
    """Passes an item by :attr:`Call.key`: what the ledger keeps of a stage."""
    out: dict[str, float] = {}
    for call in calls or ():
        out[call.key] = out.get(call.key, 0.0) + call.passes
    return out


def weighed(calls: Mapping[str, float], counts: Counts) -> float:
    """FLOPs an item of what :func:`passes` gave; 0 where one of the networks is not known."""
    total = 0.0
    for key, amount in calls.items():
        found = counts.known(key)
        if found is None:
            return 0.0
        total += amount * found.flops
    return total

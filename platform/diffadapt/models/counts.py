"""What one pass of a network costs, counted once for each description: from the table that is shipped
(counted.json), else from what this user's plans counted before (``flops.json`` of the cache folder), else
now.

Counting builds the network on torch's meta device, so that it needs neither weights nor memory, and takes
seconds; torch is imported for that alone.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.files import read_own, write_whole
from diffadapt.core.flops import Count, Mode, Network
from diffadapt.core.foreign import parse
from diffadapt.core.local_cache import cache_home

log = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent / "counted.json"


class KnownCounts:
    """Counts by description; with ``counting`` what is not known yet is counted and remembered.
    ``uncounted``: names of the networks that cannot be, with the reason."""

    def __init__(self, counting: bool = True):
        self.counting = counting
        self.uncounted: dict[str, str] = {}
        self._mine: dict[str, Any] | None = None

    def of(self, network: Network, mode: Mode) -> Count | None:
        key = f"{network.digest}:{mode}"
        found = self.known(key)
        if found is not None or not self.counting or network.name in self.uncounted:
            return found
        try:
            found = count(network, mode)
        except Exception as error:  # a class that refuses its own configuration, an operator without a shape
            log.debug("%s cannot be counted", network.name, exc_info=True)
            first = (str(error).strip().splitlines() or [""])[0]
            self.uncounted[network.name] = (
                first if isinstance(error, DiffadaptError) else type(error).__name__
            )
            return None
        self._remember(key, found)
        return found

    def known(self, key: str) -> Count | None:
        entry = _shipped().get(key) or self._own().get(key)
        try:
            return (
                Count(float(entry["flops"]), float(entry["weights"]), float(entry["memory"]))
                if entry
                else None
            )
        except (KeyError, TypeError, ValueError):
            return None

    def _own(self) -> dict[str, Any]:
        if self._mine is None:
            self._mine = {}
            with suppress(OSError, ValueError):
                value = parse(read_own(_file()))
                self._mine = value if isinstance(value, dict) else {}
        return self._mine

    def _remember(self, key: str, found: Count) -> None:
        self._own()[key] = asdict(found)
        with suppress(OSError):  # the memory only saves time
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_whole(_file(), json.dumps(self._own()).encode())


def count(network: Network, mode: Mode) -> Count:
    """One pass for one item on the meta device. Raises what building or running the network raises."""
    import torch

    from diffadapt.models.tally import Tally

    module, _, name = network.build.partition(":")
    build = getattr(importlib.import_module(module), name)
    with torch.device("meta"):
        net, inputs = build(**json.loads(network.settings))
    net = (net.train() if mode == "training" else net.eval()).requires_grad_(mode == "training")
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # one item has no variance, and the products are the same
    held = [*net.parameters(), *net.buffers()]
    weights = float(sum(t.numel() for t in held))
    for p in net.parameters() if mode == "training" else ():
        p.grad = torch.zeros_like(p)  # one of the states beside the weights, no activation
        held.append(p.grad)
    inputs = tuple(x.to("meta") for x in inputs)
    if mode == "gradient":
        inputs[0].requires_grad_(True)
    with Tally((*held, *inputs)) as tally, torch.set_grad_enabled(mode != "forward"):
        out = net(*inputs)
        out, ahead = _first(out), tally.flops
        if mode != "forward":
            out.sum().backward()
    # torch's formula for the weights' gradient forgets the groups of a convolution (depth-wise ones)
    flops = min(tally.flops, 3 * ahead) if mode == "training" else tally.flops
    return Count(float(flops), weights, float(tally.peak))


def _first(out: Any) -> Any:
    return out if hasattr(out, "sum") else _first(out[0])


def _file() -> Path:
    return cache_home() / "flops.json"


@functools.cache
def _shipped() -> dict[str, Any]:
    return json.loads(SHIPPED.read_text(encoding="utf-8"))["counts"] if SHIPPED.is_file() else {}

"""How fast devices are, from their makers' data sheets (devices.toml), and which share of it such work
reaches."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffadapt.core.toml_text import parse_toml


@dataclass(frozen=True)
class Device:
    """``peak``: dense FLOP/s by precision; ``share``: the part of it that is counted on, an assumption;
    ``memory``: bytes (0: the host's). ``name``: words of the device's own name ('A100 40GB')."""

    name: str
    peak: Mapping[str, float]
    share: Mapping[str, float]
    memory: float
    source: str

    def rate(self, precision: str) -> float:
        """FLOP/s that are counted on."""
        return self.peak[precision] * self.share[precision]


def device(words: str) -> Device | None:
    """The entry whose name's words all occur in ``words`` ('H100 80GB', 'NVIDIA A10G'), of several the one
    with most words; None for a device that the table has not."""
    given = set(_words(words))
    fitting = [d for d in table() if set(_words(d.name)) <= given]
    return max(fitting, key=lambda d: len(_words(d.name)), default=None)


@functools.cache
def table() -> tuple[Device, ...]:
    """Every device of the table."""
    value = parse_toml((Path(__file__).parent / "devices.toml").read_text(encoding="utf-8"))
    shares = value.pop("share")
    return tuple(
        Device(
            name,
            {p: 1e12 * entry[p] for p in ("fp32", "tf32", "bf16", "fp16")},
            shares["cpu" if name == "cpu" else "gpu"],
            1e9 * entry["memory"],
            entry["source"],
        )
        for name, entry in value.items()
    )


def _words(text: str) -> list[str]:
    return [w for w in re.split(r"[^a-z0-9]+", text.lower()) if w]

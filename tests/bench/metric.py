"""What a benchmark returns: named numbers, some with a target that holds on the hardware it was set for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One number. ``target`` is None where none was set, or where the hardware is not the one it was set
    for."""

    name: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target

    def line(self) -> str:
        text = f"  {self.name:<58} {_short(self.value):>10} {self.unit}"
        if self.target is not None:
            sign = ">=" if self.better == "higher" else "<="
            text += f"   target {sign} {_short(self.target)}: {'reached' if self.reached else 'MISSED'}"
        return text + (f"   ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Report:
    """The numbers of one benchmark and the conditions they were measured under."""

    title: str
    metrics: Sequence[Metric]
    conditions: Sequence[str] = ()

    def text(self) -> str:
        return "\n".join(
            [self.title, *(f"  {c}" for c in self.conditions), *(m.line() for m in self.metrics)]
        )


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"

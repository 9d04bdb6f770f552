"""Scales and the frame of charts whose points have two numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from diffadapt.report.charts import label, line


class Scale:
    """From numbers to pixels, with round ticks; ``log``: on a logarithmic scale (all numbers above 0). A
    margin of 6 % on both sides."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False, ticks: int = 5):
        self.log = log
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-12 * max(1.0, abs(high)):
            pad = abs(high) * 0.05 or 0.5
            low, high = low - pad, high + pad
        pad = 0.06 * (high - low)
        self.low, self.high, self.start, self.end = low - pad, high + pad, start, end
        self.ticks = self._log_ticks(ticks) if log else self._ticks(ticks)
        self.digits = max((len(f"{t:.12f}".rstrip("0").partition(".")[2]) for t in self.ticks), default=0)

    def __call__(self, value: float) -> float:
        v = math.log10(value) if self.log else value
        return round(self.start + (self.end - self.start) * (v - self.low) / (self.high - self.low), 2)

    def text(self, tick: float) -> str:
        """A tick as text; all of a linear scale with as many decimals."""
        return f"{tick:.4g}" if self.log or self.digits > 6 else f"{tick:.{self.digits}f}"

    def _ticks(self, count: int) -> list[float]:
        raw = (self.high - self.low) / count
        power = 10 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
        first = math.ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, int(math.floor(self.high / step + 1e-9)) + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        result: list[float] = []
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
            result = [
                f * 10.0**p
                for p in range(math.floor(self.low) - 1, math.ceil(self.high) + 1)
                for f in factors
                if self.low <= math.log10(f * 10.0**p) <= self.high
            ]
            if len(result) >= 3:
                return result[:: max(1, math.ceil(len(result) / (count + 2)))]
        return result or [10 ** ((self.low + self.high) / 2)]


class Frame:
    """Two scales with a grid: 720 x 380, narrow 340 x 300."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], log: bool, narrow: bool):
        self.width, self.height = (340, 300) if narrow else (720, 380)
        self.left, self.right, self.top, self.bottom = 50, self.width - 12, 24, self.height - 46
        self.x = Scale(xs, self.left, self.right, log, 4 if narrow else 8)
        self.y = Scale(ys, self.bottom, self.top, ticks=7)

    def axes(self, x_title: str, y_title: str) -> list[Markup]:
        """Grid, ticks and titles."""
        parts = y_axis(self.y, self.left, self.right)
        for t in self.x.ticks:
            parts.append(line(self.x(t), self.x(t), self.top, self.bottom, "grid"))
            parts.append(label(self.x.text(t), self.x(t), self.bottom + 17, "soft", anchor="middle"))
        parts.append(line(self.left, self.right, self.bottom, self.bottom, "axis"))
        parts.append(label(x_title, (self.left + self.right) / 2, self.height - 8, anchor="middle"))
        parts.append(label(y_title, 4, 14))
        return parts


def y_axis(y: Scale, left: float, right: float) -> list[Markup]:
    """Lines and ticks of an upright axis."""
    parts = []
    for t in y.ticks:
        parts.append(line(left, right, y(t), y(t), "grid"))
        parts.append(label(y.text(t), left - 6, y(t) + 4, "soft", anchor="end"))
    return parts

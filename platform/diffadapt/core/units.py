"""Numbers as a person reads them."""

from __future__ import annotations

import math


def format_seconds(seconds: float) -> str:
    """'42 s', '3 min 20 s', '5 h 12 min'."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def brief_seconds(seconds: float) -> str:
    """The same of what may be short: '0.04 s', '3.2 s'; ten seconds and more as :func:`format_seconds`."""
    if seconds >= 10:
        return format_seconds(seconds)
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"


def hours_text(hours: float | None) -> str:
    """Hours with three significant digits; '-' where they are not known."""
    if hours is None or not math.isfinite(hours):
        return "-"
    return f"{hours:.{max(0, 2 - math.floor(math.log10(abs(hours))))}f}" if hours else "0"

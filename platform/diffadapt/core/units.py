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


def number(value: object) -> str:
    """``value`` as text; a float with more than six digits to four, without an exponent where it has up to
    ten places: '1.897', '0.00001'."""
    if not isinstance(value, float) or not math.isfinite(value) or not value:
        return str(value)
    text = f"{value:.6g}"
    if float(text) != value:
        text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    elif "e-" in text and abs(value) >= 1e-10:
        text = f"{value:.15f}".rstrip("0")
    elif value.is_integer() and abs(value) < 1e15:
        text = f"{value:.1f}"
    return text

"""JSON that someone else wrote: whatever is wrong with it is a ValueError with a clause that says what."""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100
"""Lists and objects within each other; deeper values would exhaust the stack of what walks them later."""
LARGEST = 256 * 2**20
"""Bytes; a configuration has thousands, and a text of so many takes gigabytes of memory as values."""


def parse(data: bytes | str, *, strict: bool = False, largest: int | None = LARGEST) -> Any:
    """The value of a JSON text in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Raises ValueError (damaged, nested deeper than DEEPEST, more than ``largest`` bytes, a whole number of
    thousands of digits). ``strict`` also refuses what readers understand differently: a name twice in an
    object, NaN and numbers beyond the range of a float.
    """
    if largest is not None and len(data) > largest:
        raise ValueError(f"it has more than {largest // 2**20} MiB")
    hooks: dict[str, Any] = {}
    if strict:
        hooks = {"object_pairs_hook": _distinct, "parse_constant": _refuse, "parse_float": _finite}
    try:
        value = json.loads(data.removeprefix("\ufeff") if isinstance(data, str) else data, **hooks)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8 or UTF-16") from None
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            raise ValueError("it holds a whole number of thousands of digits") from None
        raise
    _demand_shallow(value)
    return value


def _demand_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(n for n in names if names.count(n) > 1)[:60]!r} twice")
    return result


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text[:40]}, which is out of range")
    return number

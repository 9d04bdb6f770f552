"""JSON that says whether it is whole: a digest of the rest beside it, under :data:`KEY`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from diffadapt.core.foreign import parse

KEY = "sha256"


def to_json(value: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """``value``, which has no entry ``sha256``, as JSON with its own digest."""
    value = json.loads(json.dumps(value))  # as a reader will see it
    return json.dumps({**value, KEY: _digest(value)}, indent=indent, sort_keys=True).encode()


def from_json(data: bytes) -> dict[str, Any]:
    """The value of :func:`to_json`. ValueError when it is no JSON object or its digest does not fit; a value
    of before, without a digest, is taken as it is."""
    value = parse(data, largest=None)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    found = value.pop(KEY, None)
    if found is not None and found != _digest(value):
        raise ValueError("its content does not match its digest")
    return value


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

"""Stable names for values: canonical JSON, digests, and one seed per item.

A digest depends on content only, never on dictionary order, machine, time or path. A seed depends on what an
item is, never on which worker makes it, in which batch, or in which order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_PLAIN = frozenset((str, int, bool, type(None)))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; 2.0 is written as 2, so that equal numbers have one name.
    ValueError for NaN and infinity."""
    return _encode(_plain_numbers(value))


def digest(value: Any, length: int = 16) -> str:
    """The first ``length`` hex characters of the SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def item_seed(run_seed: int, dataset: str, key: str, stage: str) -> int:
    """A 63-bit seed for one item of one stage."""
    text = canonical_json([run_seed, dataset, key, stage])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _plain_numbers(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:  # nearly all values, a million of them in a large plan
        return value
    if kind is dict:
        return {k: v if type(v) in _PLAIN else _plain_numbers(v) for k, v in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {k: _plain_numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_numbers(v) for v in value]
    return value

"""Stable names for values: canonical JSON, digests, and one seed per item.

A digest depends on content only, never on dictionary order, machine, time or path. A seed depends on what an item is,
never on which worker makes it, in which batch, or in which order.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and infinity (ValueError)."""
    _refuse_nonfinite(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """The first ``length`` hex characters of the SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def item_seed(run_seed: int, dataset: str, key: str, stage: str) -> int:
    """A 63-bit seed for one item of one stage."""
    text = canonical_json([run_seed, dataset, key, stage])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _refuse_nonfinite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a digest cannot cover NaN or infinity")
    if isinstance(value, dict):
        for v in value.values():
            _refuse_nonfinite(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            _refuse_nonfinite(v)

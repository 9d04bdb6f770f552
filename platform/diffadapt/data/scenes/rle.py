"""COCO's run-length codes of masks."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_rle(code: Any) -> np.ndarray:
    """bool (H, W) of a dict of ``size`` [height, width] and ``counts``: runs of zeros and ones by turns, down
    the columns, as a list of numbers or as COCO's text (groups of five bits with a continuation bit, from the
    third run on as the difference to the run before the last). Raises ValueError for runs that do not fill
    the mask."""
    (height, width), runs = decode_runs(code)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def decode_runs(code: Any) -> tuple[tuple[int, int], list[int]]:
    """((height, width), the runs) of the same; no pixel is made."""
    height, width = (int(v) for v in code["size"])
    counts = code["counts"]
    runs = _runs(counts) if isinstance(counts, (str, bytes)) else [int(c) for c in counts]
    if any(r < 0 for r in runs) or sum(runs) != height * width:
        raise ValueError(f"a mask of {height} x {width} pixels whose runs are {sum(runs)} long")
    return (height, width), runs


def _runs(text: str | bytes) -> list[int]:
    data = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        value |= (bits & 31) << (5 * shift)
        shift += 1
        if bits & 32:
            continue
        if bits & 16:  # the sign of the last group
            value |= -1 << (5 * shift)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("a run-length text that breaks off")
    return runs

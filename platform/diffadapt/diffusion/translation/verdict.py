"""Whether a transferred image is good enough: measured numbers against the thresholds of
:class:`QualityConfig`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffadapt.diffusion.translation.config import QualityConfig

REASONS = ("consistency", "edges", "luminance", "clip")
"""Why an image is refused, in the order in which it is said."""


class Verdict(NamedTuple):
    """``reasons``: the thresholds that an image misses, empty: accepted; ``shortfall``: by how much in all, 0
    for an accepted one."""

    reasons: tuple[str, ...]
    shortfall: float

    @property
    def accepted(self) -> bool:
        return not self.reasons


def thresholds(config: QualityConfig) -> dict[str, tuple[float, float]]:
    """The thresholds that act: reason -> (least, largest) value."""
    result = {
        "consistency": (config.consistency, math.inf) if config.consistency > 0 else None,
        "edges": (config.edges, math.inf) if config.edges else None,
        "luminance": tuple(config.luminance) if tuple(config.luminance) != (0.0, 255.0) else None,
        "clip": (config.clip_score, math.inf) if config.clip and config.clip_score > 0 else None,
    }
    return {reason: result[reason] for reason in REASONS if result[reason]}  # type: ignore[misc]


def judge(scores: Mapping[str, Any], config: QualityConfig) -> Verdict:
    """``scores`` as diffusion/translation/quality.py measures them. What could not be measured (None: no
    labelled pixel) refuses nothing; NaN does.

    A shortfall is a share of its threshold (luminance: of 255), so that the least bad of several refused
    attempts can be told.
    """
    reasons, shortfall = [], 0.0
    for reason, (least, largest) in thresholds(config).items():
        value = scores.get(reason)
        if value is None or least <= value <= largest:
            continue
        reasons.append(reason)
        missed = max(least - value, value - largest)
        shortfall += missed / (255 if reason == "luminance" else abs(least)) if math.isfinite(value) else 1e3
    return Verdict(tuple(reasons), shortfall)


def said(scores: Mapping[str, Any], config: QualityConfig, reason: str) -> str:
    """'edges 0.12 below 0.3'. ``reason``: one of :func:`thresholds` that has been measured."""
    least, largest = thresholds(config)[reason]
    value = scores[reason]
    return f"{reason} {round(value, 2):g} " + (
        f"above {largest:g}" if value > largest else f"below {least:g}"
    )

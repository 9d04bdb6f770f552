"""Whether a row predicts (nearly) one class: what a collapsed model does, whatever its scores without labels
say. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARE = 0.9
"""A row predicts nearly one class from this share of its predictions on."""
ABOVE = 0.2
"""... unless the class's own share of the images comes within this of it: a target that really has one
class."""
FEWEST = 30
"""Images below which a share says nothing."""
RULE = (
    f"A row is named here when one class has at least {SHARE:.0%} of its predictions on a target of {FEWEST}"
    f" images or more, and at least {100 * ABOVE:.0f} points more than that class has of the images: by the"
    f" data's labels, or, without them, in the median of the other rows' predictions."
).replace("%", " %")


@dataclass(frozen=True)
class Tally:
    """How often a row predicts each class on the images of one group: ``predicted`` (K,) counts; ``true``
    (K,) those of the labels, None where an image has none."""

    row: str
    group: str
    seed: int
    control: bool
    predicted: np.ndarray
    true: np.ndarray | None


def collapsed(tallies: Sequence[Tally]) -> list[dict[str, Any]]:
    """The tallies of rows that predict (nearly) one class: ``row``, ``group``, ``seed``, ``control``,
    ``label`` (the class), ``count`` of ``images``, ``share`` (percent), ``expected`` (percent; None: nothing
    to compare with), ``known`` (whether that is by labels), ``cases`` (how many targets and seeds the row
    has) and ``alike`` (without labels: the other rows predict that class as often, so that the target may
    have one class)."""
    out = []
    for t in tallies:
        images = int(t.predicted.sum())
        if len(t.predicted) < 2 or images < FEWEST:
            continue
        label = int(t.predicted.argmax())
        share = float(t.predicted[label] / images)
        if share < SHARE:
            continue
        expected = _share(t.true, label) if t.true is not None else _by_others(t, tallies, label)
        alike = expected is None or share - expected < ABOVE
        if alike and t.true is not None:
            continue
        out.append(
            {
                "row": t.row, "group": t.group, "seed": t.seed, "control": t.control, "label": label,
                "count": int(t.predicted[label]), "images": images, "share": _percent(share),
                "expected": None if expected is None else _percent(expected), "known": t.true is not None,
                "cases": sum(other.row == t.row for other in tallies), "alike": alike,
            }
        )  # fmt: skip
    return out


def _by_others(t: Tally, tallies: Sequence[Tally], label: int) -> float | None:
    """The median share of the class over the other rows on the same images; None without another row."""
    by_row: dict[str, list[float]] = {}
    for other in tallies:
        if (
            other.group == t.group
            and other.row != t.row
            and len(other.predicted) > label
            and other.predicted.sum()
        ):
            by_row.setdefault(other.row, []).append(_share(other.predicted, label))
    return float(np.median([np.mean(shares) for shares in by_row.values()])) if by_row else None


def _share(counts: np.ndarray, label: int) -> float:
    return float(counts[label] / counts.sum())


def _percent(value: float) -> float:
    return round(100 * value, 2)

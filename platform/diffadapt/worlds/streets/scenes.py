"""Procedural labelled street scenes, 64x64: what the small example of ZoDi and its generator are made with.

The geometry depends on (split, index) alone, so that a scene has one label map in every condition; light,
weather and noise depend on the condition too. The split ``pretrain`` is another world, with other palettes
and other light: the shipped generator learns from it, and thus sees neither a target image nor the exact
style of one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.errors import DataError, suggest
from diffadapt.core.identity import item_seed
from diffadapt.worlds.streets.conditions import CONDITIONS, ELSEWHERE, HERE, render
from diffadapt.worlds.streets.drawing import CAR, PEDESTRIAN, POLE, SCALE, SUBURB, TOWN, Layout, street_layout

SIZE = 64
"""Pixels a side."""
STREET_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("road", (128, 64, 128)),
    ("pavement", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("pole", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("sky", (70, 130, 180)),
    ("pedestrian", (220, 20, 60)),
    ("car", (0, 0, 142)),
)
"""Names and colours by class number (Cityscapes' colours); ``pole`` is poles, lamps and signs; the ego
vehicle's bonnet is ignored."""
OBJECT_CLASSES = ("car", "pedestrian", "pole")
"""What has boxes; of ``pole`` only traffic signs."""
COUNTS = {"train": 256, "val": 64, "test": 128, "pretrain": 2048}
"""Scenes in each split, the same in every condition."""
VERSION = 1
"""Raised when the same (condition, split, index) gives another picture."""
_SEEN = {CAR: 0.35, PEDESTRIAN: 0.35, POLE: 0.1}
"""Least share of its box that an object's visible pixels must fill to be listed (a sign stands on a thin
pole)."""


@dataclass(frozen=True)
class StreetScene:
    """Scene ``index`` of ``split`` in ``condition`` (a name of CONDITIONS). Raises DataError for an unknown
    name or index."""

    condition: str
    split: str
    index: int

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise DataError(
                f"Streets have no condition {self.condition!r}: give one of"
                f" {', '.join(CONDITIONS)}.{suggest(self.condition, CONDITIONS)}"
            )
        if self.split not in COUNTS:
            raise DataError(
                f"Streets have no split {self.split!r}: give one of"
                f" {', '.join(COUNTS)}.{suggest(self.split, COUNTS)}"
            )
        if not 0 <= self.index < COUNTS[self.split]:
            raise DataError(
                f"Streets' split {self.split} has the scenes 0 to {COUNTS[self.split] - 1}, not {self.index}."
            )

    @property
    def image(self) -> np.ndarray:
        """uint8 (64, 64, 3) RGB."""
        rng = np.random.default_rng(
            item_seed(VERSION, f"streets/{self.condition}", f"{self.split}/{self.index}", "light")
        )
        return render(
            _layout(self.split, self.index),
            self.condition,
            rng,
            ELSEWHERE if self.split == "pretrain" else HERE,
        )

    @property
    def annotation(self) -> np.ndarray:
        """uint8 (64, 64): positions in STREET_CLASSES, 255 where nothing is to be learnt."""
        layout = _layout(self.split, self.index)
        return np.array(layout.labels, np.uint8)[layout.canvas[SCALE - 1 :: SCALE, SCALE - 1 :: SCALE]]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Cars, pedestrians and signs: ``category`` (class number), ``bbox`` (x1, y1, x2, y2) of what is
        seen, in pixels, ``crowd``."""
        return _objects(_layout(self.split, self.index))


@functools.lru_cache(maxsize=8)
def _layout(split: str, index: int) -> Layout:
    rng = np.random.default_rng(item_seed(VERSION, "streets", f"{split}/{index}", "layout"))
    return street_layout(rng, SUBURB if split == "pretrain" else TOWN, SIZE)


def _objects(layout: Layout) -> list[dict[str, Any]]:
    seen = np.array(layout.groups)[layout.canvas]
    result = []
    for number, category in enumerate(layout.categories, start=1):
        rows, columns = np.nonzero(seen == number)
        if not len(rows):
            continue
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        large = x2 - x1 >= 2 * SCALE and y2 - y1 >= 3 * SCALE
        if large and len(rows) >= _SEEN[category] * (x2 - x1) * (y2 - y1):
            result.append(
                {"category": category, "bbox": [float(v) / SCALE for v in (x1, y1, x2, y2)], "crowd": False}
            )
    return result

"""Annotations of COCO's format: those that cannot be used are set apart with their id and image."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.data.scenes.rle import decode_runs

NAMED = 10
"""Annotations set apart that a note names one by one."""
FARTHEST = 1e6
"""Pixels; coordinates beyond are damage, and more than painting can take."""


@dataclass(frozen=True)
class Apart:
    """Annotations that cannot be used: ``why`` of each is a clause with its id and image."""

    total: int = 0
    why: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        return self.why[0] if self.why else ""

    def notes(self, name: str) -> tuple[str, ...]:
        """A sentence on them; none where there are none."""
        if not self.why:
            return ()
        count, more = len(self.why), len(self.why) - NAMED
        return (
            f"{count:,} of the {self.total:,} annotations of {name} cannot be used and"
            f" {'is' if count == 1 else 'are'} set apart, their images stay: {'; '.join(self.why[:NAMED])}"
            f"{f'; and {more:,} more' if more > 0 else ''}.",
        )


def identifier(value: Any) -> str:
    """An id as a dictionary's key: 7, 7.0 and '7' are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def sort_out(
    entries: Sequence[dict[str, Any]], images: Mapping[str, Mapping[str, Any]], categories: Collection[int]
) -> tuple[dict[str, list[dict[str, Any]]], Apart]:
    """(the usable annotations by the id of their image, those set apart). A polygon that is written as one
    flat list becomes a list of one ring."""
    usable: dict[str, list[dict[str, Any]]] = {}
    why: list[str] = []
    for entry in entries:
        image = images.get(identifier(entry.get("image_id")))
        shape = entry.get("segmentation")
        if isinstance(shape, list) and shape and all(isinstance(v, (int, float)) for v in shape):
            entry = {**entry, "segmentation": [shape]}
        fault = "the file does not list this image" if image is None else _fault(entry, image, categories)
        if fault is None:
            kept = {**entry, "category_id": int(entry["category_id"])}
            usable.setdefault(identifier(entry["image_id"]), []).append(kept)
            continue
        name = entry.get("image_id") if image is None else image["file_name"]
        why.append(f"annotation {entry.get('id')} of image {name} ({fault})")
    return usable, Apart(len(entries), tuple(why))


def corners(annotation: Mapping[str, Any]) -> list[float]:
    """x1, y1, x2, y2 of an annotation's box. Raises KeyError, TypeError or ValueError without four
    numbers."""
    x, y, width, height = (float(v) for v in annotation["bbox"])
    return [x, y, x + width, y + height]


def _fault(entry: Mapping[str, Any], image: Mapping[str, Any], categories: Collection[int]) -> str | None:
    """What is wrong with an annotation, as a clause; None: nothing."""
    try:
        known = int(entry["category_id"]) in categories
    except (KeyError, TypeError, ValueError):
        return "it has no category_id"
    if not known:
        return f"the file does not list its category {entry['category_id']}"
    try:
        x1, y1, x2, y2 = corners(entry)
    except (KeyError, TypeError, ValueError):
        return "it has no bbox of four numbers (x, y, width, height)"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return "its bbox has no four finite numbers"
    if not (x2 > x1 and y2 > y1):
        return f"its box is {x2 - x1:g} x {y2 - y1:g} pixels and thus has no area"
    height, width = image.get("height"), image.get("width")
    right, bottom = (FARTHEST if side is None else side for side in (width, height))
    if not (x1 < right and y1 < bottom and x2 > 0 and y2 > 0) or max(-x1, -y1, x2, y2) > FARTHEST:
        return f"its box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the image of {width} x {height} pixels"
    return _fault_of_shape(entry.get("segmentation"), height, width)


def _fault_of_shape(shape: Any, height: int | None, width: int | None) -> str | None:
    if shape is None:
        return None
    if isinstance(shape, Mapping):
        try:
            found = decode_runs(shape)[0]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            return f"its mask is damaged: {error}"
        if None not in (height, width) and found != (height, width):
            return f"its mask is {found[0]} x {found[1]} pixels but the image {height} x {width}"
        return None
    if not isinstance(shape, list):
        return "its segmentation is neither polygons nor a run-length code"
    for ring in shape:
        try:
            points = np.asarray(ring, np.float64)
        except (TypeError, ValueError):
            return "its polygon has no numbers"
        if points.ndim != 1 or not (np.abs(points) <= FARTHEST).all():  # NaN is not
            return "its polygon is no list of pixels x, y, x, y, ..."
        if len(points) % 2:
            return f"its polygon has {len(points)} coordinates, an odd number"
    return None

"""Label files as maps of class numbers: indices of palettes, grey values of 8 or 16 bits, and colour-coded
images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import ItemError
from diffadapt.data.image import blocks, open_image, orientation, upright
from diffadapt.data.scenes.table import ClassTable

_SCALED = {"L;2": 85, "L;4": 17}
"""Pillow widens grey PNGs of 2 and 4 bits to 0..255; class numbers are what they were before."""
_SILENT = (255, 65535)
"""Values that mean 'ignored' everywhere unless a table lists them."""


class LabelMap(NamedTuple):
    """``classes`` uint8 (H, W), IGNORED where no class is; ``unknown``: values, or (red, green, blue), that
    the table does not list."""

    classes: np.ndarray
    unknown: tuple


def read_label_map(data: bytes, table: ClassTable, key: str) -> LabelMap:
    """The class numbers of a label file. A palette's index counts, not its colours; alpha is dropped (fully
    transparent: ignored); RGB files whose channels agree hold values, others are looked up by colour. The
    file's own EXIF orientation is applied.

    Raises ItemError, naming ``key``, for files that are unreadable or cannot hold class numbers (JPEG,
    floating point).
    """
    (classes, unknown), turn = _read(data, key, lambda image, raw: _classes(image, raw, table, key))
    return LabelMap(upright(classes, turn), unknown)


def label_values(data: bytes, key: str) -> np.ndarray:
    """The raw values of a label file of one channel, int64 (H, W), upright. Raises ItemError."""

    def values(image: Image.Image, raw: str) -> np.ndarray:
        result = _values(image, raw)
        if result is None:
            raise ItemError(
                f"The label map {key} is colour-coded, but values are wanted: store it as an 8-bit grey or"
                " palette PNG."
            )
        return result.astype(np.int64)

    found, turn = _read(data, key, values)
    return upright(found, turn)


def grey_values(data: bytes, key: str) -> set[int] | None:
    """The values of a label file of one channel, or of three that agree; None for a coloured one. Raises
    ItemError."""

    def values(image: Image.Image, raw: str) -> set[int] | None:
        result = _values(image, raw)
        if result is None and image.mode in ("RGB", "RGBA"):
            rgb = np.asarray(image)[..., :3]
            result = rgb[..., 0] if bool((rgb == rgb[..., :1]).all()) else None
        return None if result is None else set(np.unique(result).tolist())

    return _read(data, key, values)[0]


def by_grey_colour(table: ClassTable, maps: Iterable[set[int]]) -> ClassTable:
    """``table`` for label files whose values are the grey colours of its classes (0 and 255 for black and
    white, as most tools write masks) and not its values; ``table`` itself for all others.

    ``maps``: :func:`grey_values` of label files; they are looked at until one shows that values are meant.
    """
    greys: dict[int, int] = {}
    coloured = [
        *zip(table.colours, range(len(table)), strict=True),
        *zip(table.codes, table.classes, strict=False),
    ]
    for (red, green, blue), number in coloured:
        if red == green == blue and (red not in greys or greys[red] == IGNORED):
            greys[red] = number
    listed = set(table.values)
    if all(number == IGNORED or grey in listed for grey, number in greys.items()):
        return table
    strange = False
    for present in maps:
        if not present <= set(greys):
            return table
        strange = strange or not present <= listed
    if not strange:
        return table
    values = tuple(sorted(greys))
    codes = tuple((v, v, v) for v in values)
    return replace(table, values=values, classes=tuple(greys[v] for v in values), codes=codes)


def _read(data: bytes, key: str, work: Callable[[Image.Image, str], Any]) -> tuple[Any, int]:
    """What ``work`` makes of the stored pixels, and the orientation that is to be applied to it."""
    with open_image(data, f"The label map {key}") as image:
        if image.format in ("JPEG", "MPO"):
            raise ItemError(
                f"The label map {key} is a JPEG, whose compression changes class numbers: store label"
                " maps as PNG."
            )
        tile = getattr(image, "tile", None)
        raw = str(tile[0][3]) if tile else ""
        image.load()
        return work(image, raw), orientation(image, data)


def warn_unknown(key: str, unknown: tuple, table: ClassTable) -> str:
    """One sentence about values of a label file that its table does not list."""
    what = "the colour" if isinstance(unknown[0], tuple) else "the value"
    listed = ", ".join(str(v) for v in unknown[:5]) + (
        f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    )
    return (
        f"The label map {key} holds {what}{'s' if len(unknown) > 1 else ''} {listed}, which the class table"
        f" {table.name or 'in use'} does not list: such pixels are ignored, here and in other files."
    )


def _classes(image: Image.Image, raw: str, table: ClassTable, key: str) -> LabelMap:
    values = _values(image, raw)
    if values is not None:
        return _by_value(values, table, key)
    if image.mode not in ("RGB", "RGBA"):
        raise ItemError(
            f"The label map {key} is of the kind {image.mode}, which holds no class numbers: store it as an"
            " 8-bit grey or palette PNG."
        )
    pixels = np.asarray(image)
    rgb = pixels[..., :3]
    if bool((rgb == rgb[..., :1]).all()):
        values = rgb[..., 0]
        if not set(np.unique(values).tolist()) - set(table.values) - set(_SILENT):
            return _by_value(values, table, key)
    result = _by_colour(rgb, table)
    if image.mode == "RGBA":
        result.classes[pixels[..., 3] == 0] = IGNORED
    return result


def _values(image: Image.Image, raw: str) -> np.ndarray | None:
    """The values of an image of one channel (and alpha); None for colours."""
    if image.mode in ("P", "L", "1", "I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(image)
        return values // _SCALED[raw] if image.mode == "L" and raw in _SCALED else values
    return np.asarray(image.getchannel(0)) if image.mode in ("LA", "PA") else None


def _by_value(values: np.ndarray, table: ClassTable, key: str) -> LabelMap:
    if values.min() < 0 or values.max() > 65535:
        raise ItemError(
            f"The label map {key} holds values outside 0..65535: store it as an 8-bit grey or palette PNG."
        )
    lookup, known = _lookup(table)
    classes, counts = np.empty(values.shape, np.uint8), np.zeros(65536, np.int64)
    for rows in blocks(*values.shape):
        part = values[rows].astype(np.int64)
        classes[rows] = lookup[part]
        counts += np.bincount(part.ravel(), minlength=65536)
    unknown = tuple(int(v) for v in np.flatnonzero(counts) if not known[v] and v not in _SILENT)
    return LabelMap(classes, unknown)


def _by_colour(rgb: np.ndarray, table: ClassTable) -> LabelMap:
    codes, numbers = _codes(table)
    result = np.empty(rgb.shape[:2], np.uint8)
    strange: set[int] = set()
    for rows in blocks(*rgb.shape[:2]):
        part = rgb[rows].astype(np.int64)
        packed = part[..., 0] << 16 | part[..., 1] << 8 | part[..., 2]
        present, inverse = np.unique(packed, return_inverse=True)
        place = np.searchsorted(codes, present).clip(max=len(codes) - 1)
        known = codes[place] == present
        classes = np.where(known, numbers[place], IGNORED).astype(np.uint8)
        result[rows] = classes[inverse].reshape(packed.shape)
        strange.update(present[~known].tolist())
    unknown = tuple((v >> 16, v >> 8 & 255, v & 255) for v in sorted(strange - {0, 0xFFFFFF}))
    return LabelMap(result, unknown)


@lru_cache(maxsize=32)
def _lookup(table: ClassTable) -> tuple[np.ndarray, np.ndarray]:
    lookup, known = np.full(65536, IGNORED, np.uint8), np.zeros(65536, bool)
    lookup[list(table.values)] = table.classes
    known[list(table.values)] = True
    return lookup, known


@lru_cache(maxsize=32)
def _codes(table: ClassTable) -> tuple[np.ndarray, np.ndarray]:
    """Packed colours in rising order and their classes; where two share a colour, a class wins over what is
    ignored, the first over later ones."""
    result: dict[int, int] = {}
    pairs = list(zip(table.colours, range(len(table.names)), strict=True)) + list(
        zip(table.codes, table.classes, strict=False)
    )
    for (red, green, blue), number in sorted(pairs, key=lambda pair: pair[1] == IGNORED):
        result.setdefault(red << 16 | green << 8 | blue, number)
    codes = sorted(result)
    return np.asarray(codes, np.int64), np.asarray([result[c] for c in codes], np.int64)

"""Label maps painted: in a table's own colours, in Cityscapes', or in ADE20K's, which published ControlNets
were trained on."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import RecipeError
from diffadapt.data.scenes.cityscapes import CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_VOID
from diffadapt.data.scenes.label_maps import label_values
from diffadapt.data.scenes.table import ClassTable, Colour

Palette = Literal["own", "cityscapes", "ade20k"]
_HEX = (
    "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff06528fff8cccff04ff3307cc46030066c83de6fa"
    "ff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47ff290a07ffffe0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff0599"
    "0633ffeb0cffa0961400a3ff8c8c8cfa0a0f14ff001fff00ff1f00ffe00099ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff00ff7000ff85"
    "ff0000ffa300ff6600c2ff00008fff33ff000052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ff"
    "ff00cc00ffc200ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ffff001f00b8ff"
    "00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ffff007afff5000abed4d6ff0000ccff1400ff"
    "ffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cffb8ff000085ffffd60019c2c266ff005c00ff"
)
ADE20K: tuple[Colour, ...] = tuple(
    (b[0], b[1], b[2]) for b in (bytes.fromhex(_HEX)[i : i + 3] for i in range(0, 450, 3))
)
"""The 150 colours of ADE20K's scene parsing classes in their order (wall, building, sky, ...)."""

_LIKE_CITYSCAPES = {
    "pavement": "sidewalk",
    "tree": "vegetation",
    "signsymbol": "traffic sign",
    "sign": "traffic sign",
    "pedestrian": "person",
    "bicyclist": "rider",
    "vegetationmisc": "terrain",
    "grass": "terrain",
    "column_pole": "pole",
    "tree trunk": "vegetation",
    "light": "traffic light",
    "motorbike": "motorcycle",
    "bike": "bicycle",
    "house": "building",
    "road marking": "road",
}
"""Other data sets' names of Cityscapes' classes."""


def paint(annotation: np.ndarray, table: ClassTable, palette: Palette = "own") -> np.ndarray:
    """A map of class numbers, uint8 (H, W), as uint8 (H, W, 3) RGB; IGNORED, and a class without a colour in
    the palette, black.

    Raises RecipeError for a palette that the table's classes have no colours in (see :func:`check_palette`).
    """
    return _lookup(table, palette)[annotation]


def check_palette(table: ClassTable, palette: Palette) -> None:
    """RecipeError, in one sentence, unless the classes of ``table`` can be painted in ``palette``."""
    _lookup(table, palette)


def paint_ids(data: bytes, key: str) -> np.ndarray:
    """A label file of Cityscapes' labelIds as its raw colour map, uint8 (H, W, 3), void colours included.
    Raises ItemError."""
    return _raw_lookup()[np.clip(label_values(data, key), 0, 255)]


@lru_cache(maxsize=32)
def _lookup(table: ClassTable, palette: Palette) -> np.ndarray:
    lookup = np.zeros((256, 3), np.uint8)
    lookup[: len(table)] = _colours(table, palette)
    lookup[IGNORED] = 0
    return lookup


def _colours(table: ClassTable, palette: Palette) -> list[Colour]:
    if palette == "own":
        return list(table.colours)
    if palette == "ade20k":
        if len(table.ade) != len(table):
            raise RecipeError(
                f"The class table {table.name} says nothing of ADE20K's colours: add a column ade (the index"
                " of each class, -1 for none), or take the palette 'own'."
            )
        return [ADE20K[index] if index >= 0 else (0, 0, 0) for index in table.ade]
    known = dict(CITYSCAPES)
    names = [_LIKE_CITYSCAPES.get(name.lower(), name.lower()) for name in table.names]
    absent = [name for name, like in zip(table.names, names, strict=True) if like not in known]
    if absent:
        raise RecipeError(
            f"The class {absent[0]!r} of the class table {table.name} has no colour among Cityscapes'"
            " classes: take the palette 'own' or 'ade20k'."
        )
    return [known[name] for name in names]


@lru_cache(maxsize=1)
def _raw_lookup() -> np.ndarray:
    lookup = np.zeros((256, 3), np.uint8)
    for number, colour in CITYSCAPES_VOID.items():
        lookup[number] = colour
    for number, (_, colour) in zip(CITYSCAPES_IDS, CITYSCAPES, strict=True):
        lookup[number] = colour
    lookup[34] = lookup[255] = (0, 0, 142)  # the licence plate: labelId -1
    return lookup

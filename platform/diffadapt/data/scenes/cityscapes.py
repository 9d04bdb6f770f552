"""Cityscapes' 19 classes, which the usual driving data sets share, and what values of label files mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diffadapt.core.artifact import IGNORED
from diffadapt.data.scenes.table import ClassTable, Colour, plain_table

CITYSCAPES = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
"""The 19 evaluated classes in the order of their trainIds (Cordts et al. 2016)."""
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelId of each trainId."""
CITYSCAPES_VOID: Mapping[int, Colour] = {
    0: (0, 0, 0),
    1: (0, 0, 0),
    2: (0, 0, 0),
    3: (0, 0, 0),
    4: (0, 0, 0),
    5: (111, 74, 0),
    6: (81, 0, 81),
    9: (250, 170, 160),
    10: (230, 150, 140),
    14: (180, 165, 180),
    15: (150, 100, 100),
    16: (150, 120, 90),
    18: (153, 153, 153),
    29: (0, 0, 90),
    30: (0, 0, 110),
}
"""The labelIds that are not evaluated, with the colours that the data set paints them in."""
_ADE = (6, 11, 1, 0, 32, 93, 136, 43, 4, 9, 2, 12, 12, 20, 83, 80, -1, 116, 127)


def _label_ids(name: str, further: Mapping[int, Colour]) -> ClassTable:
    """The classes for label files that hold labelIds; ``further`` values are ignored too."""
    known = {value: (c, CITYSCAPES[c][1]) for c, value in enumerate(CITYSCAPES_IDS)}
    known |= {value: (IGNORED, colour) for value, colour in {**CITYSCAPES_VOID, **further}.items()}
    values = tuple(sorted(known))
    numbers, codes = tuple(known[v][0] for v in values), tuple(known[v][1] for v in values)
    names, colours = tuple(n for n, _ in CITYSCAPES), tuple(c for _, c in CITYSCAPES)
    return ClassTable(name, names, colours, values, numbers, _ADE, codes)


TABLES = {
    "cityscapes": _label_ids("cityscapes", {}),
    "gta5": _label_ids("gta5", {34: (0, 0, 142)}),  # 34: the licence plate
    **{
        n: plain_table(n, CITYSCAPES, _ADE) for n in ("cityscapes_trainids", "acdc", "dark_zurich", "bdd100k")
    },
}
"""The same 19 classes by data set: cityscapes and gta5 read labelIds, the others trainIds."""


def reading_table(table: ClassTable, train_ids: bool | None) -> ClassTable:
    """``table`` for label files that hold trainIds or labelIds, where it is one of Cityscapes' classes;
    others as they are.

    ``train_ids``: what the files hold by their names or their publisher; None: nothing tells, so the table
    that was chosen does (cityscapes and gta5: labelIds, the others trainIds).
    """
    if TABLES.get(table.name) != table:
        return table
    if train_ids is None:
        train_ids = table.values == TABLES["cityscapes_trainids"].values
    return TABLES["cityscapes_trainids" if train_ids else "gta5"]


def names_tell(names: Iterable[str]) -> bool | None:
    """Whether label files hold trainIds (True) or labelIds (False), as far as their names say so."""
    lower = [name.lower() for name in names]
    if any("trainid" in name for name in lower):
        return all("trainid" in name for name in lower)
    return False if any("labelid" in name for name in lower) else None

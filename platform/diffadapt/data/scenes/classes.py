"""The classes of labelled scenes: names, colours, and what the values of label files mean; those of the usual
data sets are built in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from diffadapt.core.artifact import IGNORED
from diffadapt.core.config import execution
from diffadapt.core.errors import DataError, suggest
from diffadapt.data.scenes.config import SceneConfig

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """Class ``c`` is called ``names[c]`` and painted ``colours[c]``. The value ``values[i]`` of a label file
    means class ``classes[i]`` (IGNORED: known, and counted nowhere); a value that is not listed is ignored
    too, and said to be unknown.
    """

    name: str = execution("")
    """What messages call the table; no part of any digest."""
    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    values: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    ade: tuple[int, ...] = ()
    """Index of each class among ADE20K's 150 colours, -1: none; empty: not known."""
    codes: tuple[Colour, ...] = ()
    """Colour of ``values[i]`` in colour-coded label files; empty: the classes' colours."""

    def __len__(self) -> int:
        return len(self.names)


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
_CITYSCAPES_ADE = (6, 11, 1, 0, 32, 93, 136, 43, 4, 9, 2, 12, 12, 20, 83, 80, -1, 116, 127)
_CAMVID = (
    ("Sky", (128, 128, 128), 2),
    ("Building", (128, 0, 0), 1),
    ("Pole", (192, 192, 128), 93),
    ("Road", (128, 64, 128), 6),
    ("Pavement", (60, 40, 222), 11),
    ("Tree", (128, 128, 0), 4),
    ("SignSymbol", (192, 128, 128), 43),
    ("Fence", (64, 64, 128), 32),
    ("Car", (64, 0, 128), 20),
    ("Pedestrian", (64, 64, 0), 12),
    ("Bicyclist", (0, 128, 192), 127),
)
"""The 11 classes of SegNet's version of CamVid, in its order; 11 is void."""
BUILT_IN = (
    "cityscapes",
    "cityscapes_trainids",
    "gta5",
    "acdc",
    "dark_zurich",
    "bdd100k",
    "camvid",
    "streets",
)
_FAMILY = BUILT_IN[:6]
_OWN = {
    "cityscapes": "cityscapes",
    "gta5": "gta5",
    "acdc": "acdc",
    "dark_zurich": "dark_zurich",
    "bdd100k": "bdd100k",
    "camvid": "camvid",
    "streets": "streets",
}


@lru_cache(maxsize=16)
def builtin(name: str) -> ClassTable:
    """The built-in table ``name``; DataError for another name, with the nearest one.

    cityscapes and gta5 read labelIds (gta5: also 34, the licence plate); cityscapes_trainids, acdc,
    dark_zurich and bdd100k read trainIds; all of them have Cityscapes' 19 classes.
    """
    if name not in BUILT_IN:
        raise DataError(
            f"There is no built-in class table {name!r}; there are"
            f" {', '.join(BUILT_IN)}.{suggest(name, BUILT_IN)}"
        )
    if name == "streets":
        from diffadapt.worlds.streets.scenes import STREET_CLASSES

        return plain_table(
            "streets", [(n, tuple(c)) for n, c in STREET_CLASSES], _street_ade([n for n, _ in STREET_CLASSES])
        )
    if name == "camvid":
        table = plain_table("camvid", [(n, c) for n, c, _ in _CAMVID], tuple(a for _, _, a in _CAMVID))
        return replace(
            table,
            values=(*table.values, 11),
            classes=(*table.classes, IGNORED),
            codes=(*table.codes, (0, 0, 0)),
        )
    if name not in ("cityscapes", "gta5"):
        return replace(plain_table(name, CITYSCAPES, _CITYSCAPES_ADE), name=name)
    known = {value: (c, CITYSCAPES[c][1]) for c, value in enumerate(CITYSCAPES_IDS)}
    known |= {value: (IGNORED, colour) for value, colour in CITYSCAPES_VOID.items()}
    if name == "gta5":
        known[34] = (IGNORED, (0, 0, 142))
    values = tuple(sorted(known))
    return ClassTable(
        name,
        tuple(n for n, _ in CITYSCAPES),
        tuple(c for _, c in CITYSCAPES),
        values,
        tuple(known[v][0] for v in values),
        _CITYSCAPES_ADE,
        tuple(known[v][1] for v in values),
    )


def plain_table(name: str, classes: list | tuple, ade: tuple[int, ...] = ()) -> ClassTable:
    """A table of (name, colour) whose label files hold the class numbers themselves."""
    names, colours = tuple(n for n, _ in classes), tuple((int(r), int(g), int(b)) for _, (r, g, b) in classes)
    numbers = tuple(range(len(names)))
    return ClassTable(name, names, colours, numbers, numbers, ade, colours)


def class_table(config: SceneConfig) -> ClassTable:
    """The classes of ``config``: its ``classes`` (a built-in name or a CSV file), else the layout's own.

    A folder or Parquet set has its own in a file ``classes.csv`` beside the data; a COCO set in its
    categories. Raises DataError.
    """
    if config.classes:
        if config.classes in BUILT_IN:
            return builtin(config.classes)
        from diffadapt.data.scenes.class_file import read_class_table

        return read_class_table(config.classes)
    if config.layout in _OWN:
        return builtin(_OWN[config.layout])
    if config.layout == "coco":
        from diffadapt.data.scenes.coco import category_table

        return category_table(config)
    from diffadapt.data.scenes.class_file import own_class_table

    return own_class_table(config)


def reading_table(table: ClassTable, train_ids: bool) -> ClassTable:
    """``table`` for label files that hold trainIds (or else labelIds), where it is one of Cityscapes'
    classes; others as they are."""
    if table.name not in _FAMILY or table != replace(builtin(table.name), name=table.name):
        return table
    return builtin("cityscapes_trainids" if train_ids else "gta5")


def _street_ade(names: list[str]) -> tuple[int, ...]:
    known = {n: a for (n, _), a in zip(CITYSCAPES, _CITYSCAPES_ADE, strict=True)} | {
        n.lower(): a for n, _, a in _CAMVID
    }
    return tuple(known.get(n.lower(), -1) for n in names)

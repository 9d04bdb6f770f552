"""Layouts of labelled scenes: one file a data set, which holds one value of :class:`layout.Layout`.

Looked into are this folder, worlds/layouts (scenes that are drawn) and the folders that DIFFADAPT_LAYOUTS
names, so that a layout of one's own is one file.
"""

import pkgutil
from pathlib import Path

from diffadapt.core.discover import extend

_FIRST = (
    "folder", "parquet", "cityscapes", "acdc", "gta5", "dark_zurich", "bdd100k", "camvid", "coco", "streets"
)  # fmt: skip
__path__.append(str(Path(__file__).parents[3] / "worlds" / "layouts"))


def layout_names() -> tuple[str, ...]:
    """The layouts that there are, the usual ones first; no file is imported."""
    extend(__path__, "DIFFADAPT_LAYOUTS")
    names = {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}
    return (*(n for n in _FIRST if n in names), *sorted(names - set(_FIRST)))

"""Scenes opened: in the layout that their configuration names, then cut to what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.data.image import image_size
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.label_maps import by_grey_colour, grey_values
from diffadapt.data.scenes.layout import LAYOUTS
from diffadapt.data.scenes.scene import SceneItem, SceneSource

LOOKED_AT = 64
"""Label maps, evenly spread, by which it is decided whether masks hold values or grey colours."""


def open_scenes(config: SceneConfig) -> SceneSource:
    """The scenes that ``config`` names, after ``only_size`` and ``limit``. Raises DataError or RecipeError in
    one sentence."""
    for name in ("size", "only_size"):
        height, width = getattr(config, name)
        if min(height, width) < 0 or (height == 0) != (width == 0):
            raise RecipeError(
                f"{name} is {height}, {width}, but must be a height and a width in pixels, or 0, 0 for images"
                " as they are."
            )
    if config.limit is not None and config.limit < 1:
        raise RecipeError(f"limit is {config.limit}, but must be at least 1.")
    layout = LAYOUTS.load(config.layout)
    if config.split_file and not layout.lists:
        raise RecipeError(
            f"split_file is {config.split_file!r}, but the layout {config.layout!r} takes no list of its"
            " scenes: leave it empty."
        )
    layout.check(config)
    if not layout.drawn and not config.path:
        raise DataError(
            "The path of the scenes is empty: give the root folder of the data set in the layout"
            f" {config.layout!r}."
        )
    if not layout.drawn and config.path.startswith("embedded:"):
        raise DataError(
            f"{config.path} is not a place on disk: with it the layout must be 'streets', but it is"
            f" {config.layout!r}."
        )
    return _masks(_select(layout.open(config), config), config)


def _masks(source: SceneSource, config: SceneConfig) -> SceneSource:
    """``source`` with label files whose values are colours read as such (see label_maps.by_grey_colour)."""
    if config.layout not in ("folder", "parquet") or not source.labelled:
        return source
    labelled = [i for i in source.items if i.label is not None]
    some = [labelled[i * len(labelled) // LOOKED_AT] for i in range(LOOKED_AT)]
    some = some if len(labelled) > LOOKED_AT else labelled
    reading = by_grey_colour(source.reading, _grey_values(source, some))
    if reading is source.reading:
        return source
    names = dict(zip(reading.values, reading.classes, strict=True))
    meant = ", ".join(f"{v} {reading.names[c] if c != IGNORED else 'ignored'}" for v, c in names.items())
    note = (
        f"The label maps of {config.path} hold values that the class table does not list but whose colours it"
        f" has, so they are read as colours: {meant}."
    )
    return replace(source, reading=reading, notes=(*source.notes, note))


def _grey_values(source: SceneSource, items: Sequence[SceneItem]) -> Iterator[set[int]]:
    """The values of the label files of ``items``; of coloured and unreadable ones nothing."""
    for item in items:
        try:
            data = source.reader.read(item).label
            values = grey_values(data, item.label or item.key) if data else None
        except ItemError:  # set apart and named when it is read
            continue
        if values is not None:
            yield values


def _select(source: SceneSource, config: SceneConfig) -> SceneSource:
    items = tuple(sorted(source.items, key=lambda i: i.key))
    if not items:
        raise DataError(
            f"{config.path or source.name} holds no scenes in the layout {config.layout!r}: check the path,"
            " the split and the filters."
        )
    if config.only_size != (0, 0):
        items = _of_size(replace(source, items=items), config.only_size)
    if config.limit is not None and config.limit < len(items):
        items = tuple(items[i * len(items) // config.limit] for i in range(config.limit))
    return replace(source, items=items, mode=config.fingerprint)


def _of_size(source: SceneSource, wanted: tuple[int, int]) -> tuple[SceneItem, ...]:
    """Items whose images have the size ``wanted``; those that cannot be read stay, so that they are set apart
    and named later."""

    def size(item: SceneItem) -> tuple[int, int] | None:
        try:
            return image_size(source.reader.image(item), item.key)
        except ItemError:
            return None

    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size, source.items))
    kept = tuple(i for i, s in zip(source.items, sizes, strict=True) if s is None or s == wanted)
    if not kept:
        found = next(s for s in sizes if s is not None)
        raise DataError(
            f"No image of {source.name} is {wanted[0]} x {wanted[1]} pixels (height x width; the first is"
            f" {found[0]} x {found[1]}): correct only_size."
        )
    return kept

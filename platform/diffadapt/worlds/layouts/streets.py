"""The procedural street scenes of worlds/streets/scenes.py as a source: made when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import RecipeError, suggest
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.classes import class_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import Layout
from diffadapt.data.scenes.scene import RawScene, SceneItem, SceneSource
from diffadapt.data.scenes.table import plain_table
from diffadapt.worlds.streets.conditions import CONDITIONS
from diffadapt.worlds.streets.scenes import COUNTS, STREET_CLASSES, VERSION, StreetScene

PATH = "embedded:streets"


@dataclass(frozen=True)
class StreetReader:
    """Draws scenes of one condition and split."""

    condition: str
    split: str

    def read(self, item: SceneItem) -> RawScene:
        scene = StreetScene(self.condition, self.split, int(item.key))
        return RawScene(encode_png(scene.image), encode_png(scene.annotation), None, scene.objects)

    def image(self, item: SceneItem) -> bytes:
        return self.read(item).image

    def total_bytes(self, items: Sequence[SceneItem]) -> int:
        return 0

    def identities(self, items: Sequence[SceneItem], content: bool) -> list[Any]:
        return ["streets", VERSION, self.condition, self.split, [name for name, _ in STREET_CLASSES]]


@dataclass(frozen=True)
class Streets(Layout):
    """Drawn scenes of 64x64 pixels; ``condition`` and ``split`` say which."""

    def open(self, config: SceneConfig) -> SceneSource:
        """All scenes of one split in one condition (empty: day). A scene has the same key, label map and
        boxes in every condition."""
        condition = config.condition or "day"
        if config.path not in ("", PATH):
            raise RecipeError(
                f"The layout 'streets' is made, not read, but the path is {config.path!r}: leave it empty, or"
                " give the layout of your data."
            )
        for what, value, known in (("split", config.split, COUNTS), ("condition", condition, CONDITIONS)):
            if value not in known:
                options = f"give one of {', '.join(known)}.{suggest(value, known)}"
                raise RecipeError(f"Streets have no {what} {value!r}: {options}")
        table = class_table(config)
        items = tuple(SceneItem(f"{i:04d}", f"{i:04d}", f"{i:04d}") for i in range(COUNTS[config.split]))
        name, reader = f"streets-{condition}-{config.split}", StreetReader(condition, config.split)
        return SceneSource(name, items, table, table, reader, bool(config.labels))


LAYOUT = Streets("Streets", plain_table("streets", STREET_CLASSES, (6, 11, 1, 93, 4, 2, 12, 20)), drawn=True)

"""Reading labelled scenes: images as they lie on disk with label maps in class numbers, in shards; nothing is
stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diffadapt.core.artifact import Failure, Rows, Shard, scene_table
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.leniency import missing
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.scenes.classes import class_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.scene import RawScene, SceneItem, SceneSource
from diffadapt.data.scenes.source import open_scenes
from diffadapt.data.scenes.table import ClassTable


@lru_cache(maxsize=32)
def cached_scenes(data: SceneConfig) -> SceneSource:
    """One listing of a data set a process."""
    return open_scenes(data)


@lru_cache(maxsize=32)
def cached_classes(data: SceneConfig) -> ClassTable:
    """One reading of a class table a process."""
    return class_table(data)


@dataclass(frozen=True)
class Scenes(Stage):
    """Scenes in blocks of ``data.block``, keyed ``<group>/0/<relative path without suffix>``; rows as
    SCENE_SCHEMA says."""

    data: SceneConfig = SceneConfig()
    group: str = "source"

    kind = "scenes"
    stored = False
    may_warn = True

    def identity(self) -> dict[str, Any]:
        source = self.source()
        if source is None:
            return {
                "layout": self.data.layout,
                "split": self.data.split,
                "condition": self.data.condition,
                "scenes": "missing",
            }
        return {
            "layout": self.data.layout, "scenes": source.fingerprint, "size": list(self.data.size),
            "classes": to_dict(source.reading, identity_only=True), "labelled": source.labelled,
        }  # fmt: skip

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        source = self.source()
        total = len(source.items) if source else self._published() or 0
        block = max(1, self.data.block)
        width = len(str(max(total - 1, 0)))
        return [
            Shard(
                f"{self.group}-{start:0{width}d}",
                {"group": f"{self.group}/0", "start": start, "stop": min(start + block, total)},
                (),
                min(block, total - start),
            )
            for start in range(0, total, block)
        ]

    def source(self) -> SceneSource | None:
        """The listing; None while planning leniently without the data. Raises DataError."""
        try:
            return cached_scenes(self.data)
        except DataError as error:
            if (
                self._published() is None
            ):  # data of a user's own, of which nothing is known before they are there
                raise
            missing(error)
            return None

    @property
    def classes(self) -> ClassTable:
        """The classes of the annotations. Raises DataError where a data set has none."""
        return cached_classes(self.data)

    def _published(self) -> int | None:
        """How many scenes an official layout has, after ``limit``; None where no count is published."""
        from diffadapt.data.scenes.layout import published

        count = published(self.data)
        return count if count is None or self.data.limit is None else min(count, self.data.limit)

    def notes(self) -> tuple[str, ...]:
        source = self.source()
        return (*source.notes, *source.looked.notes(source.name, source.by_content)) if source else ()

    def open(self, context: WorkContext) -> _Reader:
        return _Reader(self)

    def resources(self) -> str:
        return "cpu"


class _Reader:
    def __init__(self, stage: Scenes):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        source = self.stage.source()
        assert source is not None
        made: list[tuple[str, RawScene]] = []
        failures: list[Failure] = []
        warnings: list[str] = []
        for item in source.items[shard.params["start"] : shard.params["stop"]]:
            key = f"{shard.params['group']}/{item.key}"
            try:
                made.append((key, self._scene(source, item, warnings)))
            except ItemError as error:
                failures.append(Failure(key, str(error)))
        scenes = [raw for _, raw in made]
        table = scene_table(
            [key for key, _ in made], [s.image for s in scenes], [s.label for s in scenes],
            colours=[s.colours for s in scenes], objects=[s.objects for s in scenes], suffix="",
        )  # fmt: skip
        return Rows(table, failures, warnings[:1])

    def _scene(self, source: SceneSource, item: SceneItem, warnings: list[str]) -> RawScene:
        """``item`` with its label map in class numbers, at the size that is asked for. Raises ItemError."""
        from diffadapt.data.image import as_stored, decode, eight_bits, encode_png, image_size, stored_size
        from diffadapt.data.scenes.label_maps import read_label_map, warn_unknown
        from diffadapt.data.scenes.palettes import paint_ids
        from diffadapt.data.scenes.resize import resize_image, resize_nearest, scale_objects
        from diffadapt.data.scenes.rows import check_size, decode_colours

        raw = source.reader.read(item)
        image, label, colours = raw.image, raw.label, raw.colours
        if source.labelled and label is None:
            raise ItemError(f"{item.key} has no label map: add it, or leave the image out.")
        before = image_size(image, item.key)
        found = None
        if label is not None and source.labelled:
            found = read_label_map(label, source.reading, item.label or item.key)
            if found.classes.shape != before and found.classes.shape == stored_size(image, item.key):
                # Whoever drew the labels saw the pixels as they are stored.
                image, before = as_stored(image, item.key), found.classes.shape
                warnings.append(
                    f"The label map {item.label or item.key} has the size of its image before the turn that"
                    " the image states, so the turn is not applied, here and in other such scenes."
                )
        image = eight_bits(image, item.key, lambda: source.looked.depth)
        size = self.stage.data.size
        after = before if size == (0, 0) else tuple(size)
        if label is not None and found is not None:
            check_size(item.key, "label map", found.classes.shape, before)
            if found.unknown:
                warnings.append(warn_unknown(item.label or item.key, found.unknown, source.reading))
            if source.raw_colours and colours is None:
                colours = encode_png(paint_ids(label, item.key))
            label = encode_png(resize_nearest(found.classes, after))
        if after != before:
            image = encode_png(resize_image(decode(image, 3, item.key), after))
            if colours is not None:
                colours = encode_png(resize_nearest(decode_colours(colours, item.key), after))
        return RawScene(
            image, label if source.labelled else None, colours, scale_objects(raw.objects, before, after)
        )

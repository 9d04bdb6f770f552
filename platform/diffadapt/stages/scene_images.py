"""Stages that change the images of labelled scenes and leave their label maps as they are: corruption, and
alignment or projection with the unconditional model (SDA for segmenters)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Rows, Shard, scene_table
from diffadapt.core.stage import WorkContext, Worker
from diffadapt.stages.align import Align
from diffadapt.stages.corrupt import Corrupt


@dataclass(frozen=True)
class CorruptScenes(Corrupt):
    """:class:`Corrupt` for scenes, at their own size and stored without loss (``resize`` 0, ``jpeg_quality``
    0)."""

    resize: int = 0
    jpeg_quality: int = 0

    kind = "corrupted-scenes"
    may_warn = True

    def open(self, context: WorkContext) -> Worker:
        return _SceneImages(super().open(context))


@dataclass(frozen=True)
class AlignScenes(Align):
    """:class:`Align` for scenes, which must have the network's own size: otherwise they would be cropped, and
    their label maps not. Scenes that quality control refused are left out."""

    kind = "aligned-scenes"
    may_warn = True  # type: ignore[assignment]  # of scenes too, not of coupled batches alone

    def open(self, context: WorkContext) -> Worker:
        inner = super().open(context)
        return _SceneImages(inner, inner.network.image_size)


class _SceneImages:
    """Gives the images of scenes to a worker of images, and its results their label maps; ``side``: of the
    square images that it takes, 0: any."""

    def __init__(self, inner: Any, side: int = 0):
        self.inner, self.side = inner, side

    @property
    def batch_size(self) -> int:
        return getattr(self.inner, "batch_size", 0)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        from diffadapt.data.scenes.rows import accepted

        scenes, unfit = _of_side(accepted(inputs[0]), self.side)
        made = self.inner.run(shard, [scenes])
        truth = {
            _item(key): annotation
            for key, annotation in zip(scenes.column("key"), scenes.column("annotation"), strict=True)
        }
        found = [truth[_item(key)] for key in made.column("key")]
        table = scene_table(
            made.column("key"),
            [image["bytes"] for image in made.column("image")],
            [None if a is None else a["bytes"] for a in found],
            made.column("seed"),
        )
        return Rows(table, [*made.failures, *unfit], [*scenes.warnings, *made.warnings])


def _item(key: str) -> str:
    """What a scene is called in its set, whatever was done to it."""
    return key.split("/", 2)[2]


def _of_side(rows: Rows, side: int) -> tuple[Rows, list[Failure]]:
    """The scenes that have that side, and why the others cannot be taken."""
    import pyarrow as pa

    from diffadapt.core.errors import ItemError
    from diffadapt.data.image import image_size

    if not side:
        return rows, []
    wrong: list[Failure] = []
    fits = []
    for key, image in zip(rows.column("key"), rows.column("image"), strict=True):
        try:
            size = image_size(image["bytes"], key)
        except ItemError:
            size = (side, side)  # whoever decodes it says what is wrong
        fits.append(tuple(size) == (side, side))
        if not fits[-1]:
            wrong.append(
                Failure(
                    key,
                    f"it is {size[0]} x {size[1]} pixels, but the unconditional model works on {side} x"
                    f" {side}, and a label map must not be cropped: set image_size to {side}.",
                )
            )
    return Rows(rows.table.filter(pa.array(fits, pa.bool_())), rows.failures, rows.warnings), wrong

"""Reading new images of no known truth as scenes: a folder, a glob or Parquet with an image column; nothing
is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffadapt.core.artifact import Rows, Shard, scene_table
from diffadapt.core.stage import WorkContext, Worker
from diffadapt.stages.images import Images


@dataclass(frozen=True)
class Photos(Images):
    """As :class:`Images`, its rows in SCENE_SCHEMA without annotations, so that stages which read scenes take
    them."""

    kind = "photos"

    def open(self, context: WorkContext) -> Worker:
        return _Reader(super().open(context))


class _Reader:
    def __init__(self, images: Worker):
        self.images = images

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        rows = self.images.run(shard, inputs)
        keys = rows.column("key")
        return replace(
            rows,
            table=scene_table(
                keys, [i["bytes"] for i in rows.column("image")], [None] * len(keys), suffix=""
            ),
        )

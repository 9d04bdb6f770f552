"""Reading stages: labelled folders, embedded sets and benchmark trees as shards of original image bytes; nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.leniency import missing
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.config import DataConfig
from diffadapt.data.source import Source, open_source


@lru_cache(maxsize=16)
def cached_source(data: DataConfig) -> Source:
    """One listing of a data set a process."""
    return open_source(data)


@dataclass(frozen=True)
class Images(Stage):
    """Original bytes of a data set, in blocks of ``data.block`` images, keyed ``<group>/<relative path>``."""

    data: DataConfig = DataConfig()
    group: str = "clean/0"
    """corruption/severity of the images; 'clean/0' for undisturbed ones."""
    assumed: int = 0
    """Images to plan with while the data is not at hand (the benchmark's published count)."""

    kind = "images"
    stored = False

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self.data, identity_only=True)
        for name in ("path", "fingerprint", "image_size", "channels"):
            fields.pop(name)
        return {"data": fields, "group": self.group, "fingerprint": self._source().fingerprint if self._source() else "missing"}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        source = self._source()
        total = len(source.items) if source else self.assumed
        block = max(1, self.data.block)
        width = len(str(max(total - 1, 0)))
        return [
            Shard(
                f"{self.group.replace('/', '-')}-{start:0{width}d}", {"group": self.group, "start": start, "stop": min(start + block, total)},
                (), min(start + block, total) - start,
            )  # fmt: skip
            for start in range(0, total, block)
        ]

    def _source(self) -> Source | None:
        try:
            return cached_source(self.data)
        except DataError as error:
            if not self.assumed:
                raise
            missing(error)
            return None

    def open(self, context: WorkContext) -> _Reader:
        return _Reader(cached_source(self.data), self.group)

    def resources(self) -> str:
        return "cpu"


class _Reader:
    def __init__(self, source: Source, group: str):
        self.source, self.group = source, group

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        keys, labels, images, failures = [], [], [], []
        for item in self.source.items[shard.params["start"] : shard.params["stop"]]:
            key = f"{self.group}/{item.key}"
            try:
                images.append(self.source.read(item.key))
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            except OSError as error:
                failures.append(Failure(key, f"{item.key} cannot be read: {error.strerror or type(error).__name__}"))
                continue
            keys.append(key)
            labels.append(item.label)
        return Rows(image_table(keys, labels, images, [0] * len(keys), suffix=""), failures)

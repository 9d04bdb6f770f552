"""Scenes of many shards for training, at one size: in memory when small, else in a memory-mapped table on the
local disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest
from diffadapt.core.stage import FitJob, InputFile
from diffadapt.data.image import encode_png, open_image
from diffadapt.stages.gather import IN_MEMORY, Gathered, Gathering
from diffadapt.stages.roles import kept_keys

FORMAT = 1
"""Raised when the same scenes would lie otherwise in a table on the disk."""
SCHEMA = pa.schema([("key", pa.string()), ("image", pa.binary()), ("annotation", pa.binary())])


class Loaded:
    """A set of scenes (tasks/segmentation/batches.SceneSet) with what could not be read and how many were
    left out, by reason."""

    def __init__(self, rows: Gathered):
        self.rows = rows
        table = rows.table
        self.keys: list[str] = (
            [key for key, *_ in rows.items] if table is None else table.column("key").to_pylist()
        )
        self.failures = [Failure(*f) for f in rows.notes["failures"]]
        self.left_out: dict[str, int] = rows.notes["left_out"]
        self.warnings: list[str] = rows.notes["warnings"]
        """What reading the scenes had to say, each sentence once."""

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(image uint8 (H, W, 3), annotation uint8 (H, W) or None)."""
        if self.rows.table is None:
            return self.rows.items[i][1:]
        row = self.rows.row(i)
        annotation = row["annotation"]
        return _pixels(row["image"]), None if annotation is None else _pixels(annotation)


def load_scenes(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    size: tuple[int, int],
    classes: int,
    *,
    keep: Collection[str] | None = None,
    reason: str = "refused",
    annotated: bool = True,
    in_memory: int = IN_MEMORY,
) -> Loaded:
    """Every readable scene of ``files`` at ``size``: images by Lanczos, label maps by the nearest pixel.

    ``annotated``: scenes without a label map are left out, and one with a class number outside 0..classes-1
    is a failure; else label maps are not read. ``keep``: only the scenes of these keys (the others count as
    left out for ``reason``); without it, only those that are not marked as refused (column ``accepted``).
    """
    wanted = None if keep is None else sorted(keep)
    key = digest([FORMAT, [f.digest for f in files], list(size), classes, annotated, wanted, reason])
    with Gathering(f"scenes-{key}", SCHEMA, _row, in_memory) as gathering:
        existing = gathering.existing()
        if existing is None:
            existing = _Collector(gathering, size, classes, annotated).collect(files, read, keep, reason)
    return Loaded(existing)


def demand_scenes(scenes: Loaded, what: str, why: str) -> None:
    """DataError where a set has nothing to train with; ``why`` says how that can be, the first failure is
    named."""
    if not len(scenes):
        first = (
            f"; the first: {scenes.failures[0].key}: {scenes.failures[0].reason}" if scenes.failures else ""
        )
        raise DataError(f"There are no {what} scenes to train with: {why}{first}.")


def load_transferred(job: FitJob, files: Sequence[InputFile], size: tuple[int, int], classes: int) -> Loaded:
    """The transferred scenes that quality control kept, without their annotations, which are the source's.
    DataError when there is none."""
    keep = kept_keys(job.context)
    scenes = load_scenes(files, job.read, size, classes, keep=keep, annotated=False)
    why = "quality control refused them all (lower its thresholds), or none is readable"
    demand_scenes(scenes, "transferred", why)
    return scenes


class _Collector:
    """Goes through the shards once."""

    def __init__(self, gathering: Gathering, size: tuple[int, int], classes: int, annotated: bool):
        self.gathering, self.size, self.classes, self.annotated = gathering, size, classes, annotated
        self.failures: list[Failure] = []
        self.left_out: dict[str, int] = {}
        self.warnings: dict[str, None] = {}

    def collect(
        self,
        files: Sequence[InputFile],
        read: Callable[[InputFile], Rows],
        keep: Collection[str] | None,
        reason: str,
    ) -> Gathered:
        for file in files:
            self._shard(read(file), keep, reason)
        failures = [[f.key, f.reason] for f in self.failures]
        notes = {"failures": failures, "left_out": self.left_out, "warnings": list(self.warnings)}
        return self.gathering.finish(notes)

    def _shard(self, rows: Rows, keep: Collection[str] | None, reason: str) -> None:
        from diffadapt.data.scenes.rows import decode_scenes

        said = rows.warnings
        chosen = [key in keep for key in rows.column("key")] if keep is not None else _accepted(rows)
        if chosen is not None and not all(chosen):
            self._left_out(reason if keep is not None else "refused", len(chosen) - sum(chosen))
            rows = Rows(rows.table.filter(pa.array(chosen)), rows.failures)
        self.warnings.update(dict.fromkeys(said))
        scenes, failures = decode_scenes(rows, annotation=self.annotated)
        self.failures += failures
        for scene in scenes:
            self._add(scene)

    def _add(self, scene: Any) -> None:
        from diffadapt.models.segmentation.inputs import fit_image, fit_labels
        from diffadapt.tasks.segmentation.training import label_problem

        annotation = scene.annotation if self.annotated else None
        if self.annotated and annotation is None:
            self._left_out("unlabelled", 1)
            return
        if annotation is not None and (problem := label_problem(annotation, self.classes)):
            self.failures.append(Failure(scene.key, problem))
            return
        image = fit_image(scene.image, self.size)
        labels = None if annotation is None else fit_labels(annotation, self.size)
        size = image.nbytes + (0 if labels is None else labels.nbytes)
        self.gathering.add((scene.key, image, labels), size)

    def _left_out(self, why: str, count: int) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + count


def _accepted(rows: Rows) -> list[bool] | None:
    return rows.column("accepted") if "accepted" in rows.table.schema.names else None


def _row(item: tuple[str, np.ndarray, np.ndarray | None]) -> dict[str, Any]:
    key, image, annotation = item
    encoded = None if annotation is None else encode_png(annotation)
    return {"key": key, "image": encode_png(image), "annotation": encoded}


def _pixels(data: bytes) -> np.ndarray:
    with open_image(data, "A gathered scene") as image:
        return np.asarray(image)

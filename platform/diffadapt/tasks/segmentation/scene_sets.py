"""Scenes of many shards for training, at one size: in memory when small, else in a memory-mapped table on the
local disk."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest
from diffadapt.core.stage import FitJob, InputFile
from diffadapt.data.image import encode_png
from diffadapt.stages.roles import KEPT, fitted_with, kept_keys

IN_MEMORY = 256 << 20
"""Bytes of pixels up to which a set is held as arrays."""
FORMAT = 1
"""Raised when the same scenes would lie otherwise in a table on the disk."""
SCHEMA = pa.schema([("key", pa.string()), ("image", pa.binary()), ("annotation", pa.binary())])


@dataclass
class Loaded:
    """A set of scenes (train/segmentation_batches.SceneSet) with what could not be read and how many were
    left out, by reason."""

    keys: list[str]
    items: Any
    """A list of (image, annotation), or the table of encoded ones."""
    failures: list[Failure] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    """What reading the scenes had to say, each sentence once."""

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(image uint8 (H, W, 3), annotation uint8 (H, W) or None)."""
        if isinstance(self.items, list):
            return self.items[i]
        row = self.items.slice(i, 1)
        image, annotation = (row.column(name)[0].as_py() for name in ("image", "annotation"))
        return _pixels(image), None if annotation is None else _pixels(annotation)


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
    cached = (
        Path(tempfile.gettempdir())
        / "diffadapt-cache"
        / f"scenes-{digest([FORMAT, [f.digest for f in files], list(size), classes, annotated, None if keep is None else sorted(keep), reason])}.arrow"
    )
    if cached.exists():
        return _open(cached)
    return _Collector(size, classes, annotated, cached, in_memory).collect(files, read, keep, reason)


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
    keep = kept_keys(fitted_with(job, KEPT))
    scenes = load_scenes(files, job.read, size, classes, keep=keep, annotated=False)
    why = "quality control refused them all (lower its thresholds), or none is readable"
    demand_scenes(scenes, "transferred", why)
    return scenes


class _Collector:
    """Goes through the shards once; what outgrows the memory goes to the disk."""

    def __init__(self, size: tuple[int, int], classes: int, annotated: bool, path: Path, in_memory: int):
        self.size, self.classes, self.annotated, self.path, self.in_memory = (
            size,
            classes,
            annotated,
            path,
            in_memory,
        )
        self.found = Loaded([], [])
        self.bytes = 0
        self.temporary = path.with_name(f"{path.name}.{os.getpid()}")
        self.writer: Any = None

    def collect(
        self,
        files: Sequence[InputFile],
        read: Callable[[InputFile], Rows],
        keep: Collection[str] | None,
        reason: str,
    ) -> Loaded:
        try:
            for file in files:
                self._shard(read(file), keep, reason)
            if self.writer is None:
                return self.found
            self.writer.close()
            notes = {
                "failures": [[f.key, f.reason] for f in self.found.failures],
                "left_out": self.found.left_out,
                "warnings": self.found.warnings,
            }
            _replace(self.path.with_suffix(".json"), json.dumps(notes).encode())
            os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
        return _open(self.path)

    def _shard(self, rows: Rows, keep: Collection[str] | None, reason: str) -> None:
        from diffadapt.data.scenes.rows import decode_scenes

        said = rows.warnings
        chosen = [key in keep for key in rows.column("key")] if keep is not None else _accepted(rows)
        if chosen is not None and not all(chosen):
            self._left_out(reason if keep is not None else "refused", len(chosen) - sum(chosen))
            rows = Rows(rows.table.filter(pa.array(chosen)), rows.failures)
        self.found.warnings += [w for w in dict.fromkeys(said) if w not in self.found.warnings]
        scenes, failures = decode_scenes(rows, annotation=self.annotated)
        self.found.failures += failures
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
            self.found.failures.append(Failure(scene.key, problem))
            return
        item = (
            fit_image(scene.image, self.size),
            None if annotation is None else fit_labels(annotation, self.size),
        )
        self.bytes += sum(a.nbytes for a in item if a is not None)
        if self.writer is None and self.bytes > self.in_memory:
            self._to_disk()
        self.found.keys.append(scene.key)
        if self.writer is None:
            self.found.items.append(item)
        else:
            self._write(scene.key, item)

    def _to_disk(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pa.ipc.new_file(str(self.temporary), SCHEMA)
        for key, item in zip(self.found.keys, self.found.items, strict=True):
            self._write(key, item)
        self.found.items = []

    def _write(self, key: str, item: tuple[np.ndarray, np.ndarray | None]) -> None:
        image, annotation = item
        row = {
            "key": [key],
            "image": [encode_png(image)],
            "annotation": [None if annotation is None else encode_png(annotation)],
        }
        self.writer.write_table(pa.table(row, schema=SCHEMA))

    def _left_out(self, why: str, count: int) -> None:
        self.found.left_out[why] = self.found.left_out.get(why, 0) + count


def _accepted(rows: Rows) -> list[bool] | None:
    return rows.column("accepted") if "accepted" in rows.table.schema.names else None


def _open(path: Path) -> Loaded:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Loaded(
        table.column("key").to_pylist(),
        table,
        [Failure(*f) for f in notes["failures"]],
        notes["left_out"],
        notes["warnings"],
    )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)

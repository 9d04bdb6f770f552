"""A run as the page knows it: where its stages lie in the store, what is there of them, what is known of
single images."""

from __future__ import annotations

import io
import posixpath
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow.parquet as pq

from diffadapt.core.artifact import Rows
from diffadapt.core.errors import LostError, MissingError, StoreError
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.core.store import Store, modified
from diffadapt.stages.roles import KEPT

T = TypeVar("T")
LISTED = 1.5
"""Seconds for which the listing of a folder of the store is good enough."""
SHARD_BYTES = 256 << 20
"""Decoded shards that are kept in memory."""
JUDGES = ("filter", "quality")
"""Kinds of stages that decide which images training sees."""


class Kept:
    """Values by key, the least used ones dropped beyond ``most`` (in units of ``size``, by default their
    number). Of several threads that ask for the same value one makes it."""

    def __init__(self, most: float, size: Callable[[Any], float] = lambda value: 1.0):
        self.most, self.size, self.held = most, size, 0.0
        self._values: OrderedDict[Hashable, tuple[Any, float, float]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._guard = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], T], seconds: float | None = None) -> T:
        """The value of ``key``; ``make`` where there is none, or none younger than ``seconds``."""
        with self._guard:
            if (known := self._young(key, seconds)) is not None:
                return known[0]
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                if (known := self._young(key, seconds)) is not None:
                    return known[0]
            try:
                value = make()
                self._put(key, value)
                return value
            finally:
                with self._guard:
                    self._making.pop(key, None)

    def _young(self, key: Hashable, seconds: float | None) -> tuple[Any, float, float] | None:
        known = self._values.get(key)
        if known is None or (seconds is not None and time.monotonic() - known[2] > seconds):
            return None
        self._values.move_to_end(key)
        return known

    def _put(self, key: Hashable, value: Any) -> None:
        size = self.size(value)
        with self._guard:
            if old := self._values.pop(key, None):
                self.held -= old[1]
            self._values[key] = value, size, time.monotonic()
            self.held += size
            while self.held > self.most and len(self._values) > 1:
                self.held -= self._values.popitem(last=False)[1][1]


@dataclass(frozen=True)
class StageFacts:
    """A stage of a run. ``paths``: store names of its shards, or of the folder of a fit, in their order."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    folder: str
    fit: bool
    paths: tuple[str, ...]
    items: Mapping[str, int] = field(default_factory=dict)
    """Path -> how many items it was planned with, where the run's manifest says it."""


@dataclass(frozen=True)
class RunFacts:
    """``quarantined``: of the manifest, (stage, item, reason)."""

    stages: Mapping[str, StageFacts]
    class_names: tuple[str, ...]
    manifest: Mapping[str, Any] | None

    def judges_of(self, stage: str) -> list[StageFacts]:
        """The stages that decide on the images of ``stage``."""
        return [s for s in self.stages.values() if s.kind in JUDGES and stage in s.inputs]


@dataclass(frozen=True)
class Shelved:
    """A shard that is in the store: its name there and when it was committed."""

    path: str
    when: float


class Workshop:
    """What is read of runs and shards, kept as long as it is true: shards never change under their name."""

    def __init__(self, store: Store):
        self.store = store
        self._facts, self._lists, self._columns = Kept(16), Kept(256), Kept(20_000)
        self._rows = Kept(SHARD_BYTES, lambda rows: float(rows.table.nbytes))
        self._schemas, self._verdicts, self.texts = Kept(2000), Kept(8), Kept(8)

    def facts(self, run: Run, status: Mapping[str, Any]) -> RunFacts:
        """Of a run with this status. StoreError for damaged files."""
        state = status.get("state")
        at = status.get("started") if state == "running" else status.get("updated")
        return self._facts.get((run.url, state, at), lambda: _facts(run))

    def shelved(self, stage: StageFacts) -> list[Shelved]:
        """The shards of a stage that are there, in the order in which they were planned."""
        if not stage.folder or stage.fit:
            return []
        there = self._lists.get(stage.folder, lambda: self._times(stage.folder), LISTED)
        return [Shelved(p, there[p]) for p in stage.paths if p in there]

    def _times(self, folder: str) -> dict[str, float]:
        found = self.store.files(folder)
        return {posixpath.join(folder, name): modified(info) for name, info in found.items()}

    def columns_of(self, path: str) -> tuple[str, ...]:
        """Names of the columns of the shards beside ``path``; they have the same ones."""
        return self._schemas.get(posixpath.dirname(path), lambda: tuple(self._open(path).schema_arrow.names))

    def holds_images(self, stage: StageFacts, shelved: list[Shelved]) -> bool:
        return bool(shelved) and "image" in self.columns_of(shelved[0].path)

    def columns(self, path: str, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """Small columns of a shard. StoreError where it is damaged."""

        def read() -> dict[str, list[Any]]:
            table = self._open(path).read(columns=list(names), use_threads=False)
            return {name: table.column(name).to_pylist() for name in names}

        return self._columns.get((path, names), read)

    def rows(self, path: str) -> Rows:
        """A whole shard, checked. StoreError where it is missing or damaged."""
        return self._rows.get(path, lambda: self.store.load(path))

    def verdicts(self, judge: StageFacts) -> dict[str, dict[str, Any]] | None:
        """What a filter or quality control decided: key -> row of kept.parquet; None where it has not
        ended."""
        path = next(iter(judge.paths), "")
        fit = Sealed(self.store, path)
        if not path or not fit.exists():
            return None

        def read() -> dict[str, dict[str, Any]]:
            table = pq.ParquetFile(io.BytesIO(fit.read(KEPT))).read(use_threads=False)
            return {row["key"]: row for row in table.to_pylist()}

        return self._verdicts.get(path, read)

    def _open(self, path: str) -> pq.ParquetFile:
        try:
            if self.store.local:
                return pq.ParquetFile(self.store.join(path))
            return pq.ParquetFile(self.store.fs.open(self.store.join(path), "rb"))
        except FileNotFoundError:
            raise MissingError(f"The shard {path} is no longer in the store.") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"The shard {path} cannot be read ({type(error).__name__}).") from None


def _facts(run: Run) -> RunFacts:
    try:
        manifest = run.manifest()
    except LostError:
        manifest = None
    told = run.stages()
    stages = {n: s for n, s in (told.get("stages") or {}).items() if isinstance(s, Mapping)}
    if manifest is not None:
        nodes = manifest["nodes"]
        order = [n for n in stages if n in nodes] + [n for n in nodes if n not in stages]
        return RunFacts(
            {n: _finished(n, nodes[n]) for n in order},  # a manifest has them by name
            tuple(map(str, manifest.get("class_names") or ())),
            manifest,
        )
    planned: dict[str, list[str]] = {}
    for path in map(str, run.planned()) if stages else ():
        planned.setdefault(posixpath.dirname(path), []).append(path)
    return RunFacts(
        {n: _going_on(n, info, planned) for n, info in stages.items()},
        tuple(map(str, told.get("class_names") or ())),
        None,
    )


def _finished(name: str, info: Mapping[str, Any]) -> StageFacts:
    shards = info.get("shards") or ()
    paths = tuple(str(s[3]) for s in shards if s[3])
    fit = bool(paths) and not paths[0].endswith(".parquet")
    folder = (paths[0] if fit else posixpath.dirname(paths[0])) if paths else ""
    items = {str(s[3]): int(s[2]) for s in shards if s[3]}
    return StageFacts(
        name, str(info.get("kind", "")), tuple(info.get("inputs") or ()), folder, fit, paths, items
    )  # fmt: skip


def _going_on(name: str, info: Mapping[str, Any], planned: Mapping[str, list[str]]) -> StageFacts:
    folder, fit = str(info.get("folder") or ""), bool(info.get("fit"))
    paths = (folder,) if fit and folder else tuple(planned.get(folder, ())) if folder else ()
    return StageFacts(
        name, str(info.get("kind", "")), tuple(info.get("inputs") or ()), folder, fit, paths
    )  # fmt: skip

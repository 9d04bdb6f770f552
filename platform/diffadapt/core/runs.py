"""Run folders: ``<root>/runs/<recipe>-<digest>/`` with manifest, scores, logs and report. Knows no torch."""

from __future__ import annotations

import json
import os
import posixpath
import time
from collections.abc import Iterable
from typing import Any

from diffadapt.core import manifest, record
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.foreign import parse
from diffadapt.core.record import Score
from diffadapt.core.store import Store, redact, safe_name

PLANNED = "planned.json"
"""Store names of all that a run makes, written before the work begins: garbage collection spares them."""


class Root:
    """A place with a store and run folders; any fsspec location."""

    def __init__(self, location: str):
        location = str(location).rstrip("/") or "/"
        self.store = Store(posixpath.join(location, "store"))
        self.runs = Store(posixpath.join(location, "runs"))
        self.sweeps = Store(posixpath.join(location, "sweeps"))
        self.ledger = Store(posixpath.join(location, "ledger"))
        self.location = posixpath.dirname(self.runs.root)

    def names(self) -> list[str]:
        """Run folders, newest first."""
        result = [
            (self._stamp(n), n)
            for n in self.runs.list("")
            if not n.startswith(".") and not n.startswith("store.json")
        ]
        return [n for _, n in sorted(result, reverse=True)]

    def run(self, name: str) -> Run:
        """The run folder ``name`` (a name, its unique prefix, a path ending in it, or ``last``: the newest
        that is not a prediction); StoreError if there is none."""
        names = self.names()
        short = name.rstrip("/").split("/")[-1]
        if short == "last":
            named = [n for n in names if not n.startswith("predict-")]
            if named:
                return Run(self, named[0])
        matches = [n for n in names if n == short] or [n for n in names if n.startswith(short)]
        if len(matches) == 1:
            return Run(self, matches[0])
        if len(matches) > 1:
            raise StoreError(f"{name!r} fits several runs: {', '.join(matches[:5])}; give more of the name.")
        raise StoreError(
            f"There is no run {name!r} under {redact(self.location)}.{near(short, names)} `diffadapt status`"
            " lists them; --root gives another place."
        )

    def _stamp(self, name: str) -> float:
        updated = Run(self, name).status().get("updated")
        return updated if isinstance(updated, (int, float)) else 0.0


def near(name: str, names: Iterable[str]) -> str:
    """The nearest of ``names``, or without their digests, as :func:`suggest` words it."""
    return suggest(name, names) or suggest(
        name.rpartition("-")[0] or name, {n.rpartition("-")[0] for n in names}
    )


def run_name(recipe: str, digest: str) -> str:
    return f"{safe_name(recipe.replace('/', '-'))}-{digest}"


def current_job() -> str:
    """Name of the submitted job that this process is the driver of (Ray says so in its environment), or an
    empty string."""
    try:
        return str(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return ""


class Run:
    """One run folder; ``place`` is where it lies, the root's runs unless a sweep keeps it."""

    def __init__(self, root: Root, name: str, place: Store | None = None):
        self.root, self.name, self.place = root, name, place or root.runs

    @property
    def url(self) -> str:
        return posixpath.join(self.place.root, self.name)

    def write(self, name: str, data: bytes) -> None:
        self.place.write_bytes(posixpath.join(self.name, name), data)

    def read(self, name: str) -> bytes:
        return self.place.read_bytes(posixpath.join(self.name, name))

    def remove(self, name: str) -> None:
        self.place.remove(posixpath.join(self.name, name))

    def has(self, name: str) -> bool:
        return self.place.exists(posixpath.join(self.name, name))

    def manifest(self) -> dict[str, Any]:
        if not self.has("manifest.json"):
            raise StoreError(
                f"The run {self.name} has no manifest yet: it did not come to its end; run its recipe again"
                " to go on."
            )
        return manifest.load(self.read("manifest.json"), self.name)

    def planned(self) -> set[str]:
        """Store names of the shards and fits that this run refers to, finished or not; empty when nothing is
        known."""
        if self.has(PLANNED):
            return set(parse(self.read(PLANNED), largest=None))
        return set()

    def scores(self) -> list[Score]:
        """The run's scores with the roles of their rows. StoreError when they are not there or damaged."""
        if not self.has("scores.parquet"):
            raise StoreError(f"The run {self.name} has no scores yet: run its recipe again to finish it.")
        try:
            return record.from_bytes(self.read("scores.parquet"), self._rows())
        except StoreError:
            raise
        except Exception:
            raise StoreError(
                f"The scores of {self.name} are damaged: run its recipe again; it is served from the store."
            ) from None

    def _rows(self) -> list[dict[str, Any]]:
        try:
            return self.manifest().get("rows") or []
        except StoreError:  # without a manifest there are scores, but nothing is stated of their rows
            return []

    def status(self) -> dict[str, Any]:
        try:
            status = parse(self.read("status.json"))
        except (StoreError, ValueError):
            status = None
        return status if isinstance(status, dict) else {"state": "unknown"}

    def write_status(self, state: str, nodes: dict[str, Any], **more: Any) -> None:
        more = {"job": job, **more} if (job := current_job()) else more
        self.write(
            "status.json",
            json.dumps({"state": state, "updated": time.time(), "nodes": nodes, **more}).encode(),
        )

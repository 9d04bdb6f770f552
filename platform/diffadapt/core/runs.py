"""Run folders: ``<root>/runs/<recipe>-<digest>/`` with manifest, scores, logs and report. Knows no torch."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import time
from collections.abc import Iterable
from typing import Any

from diffadapt.core import manifest, record
from diffadapt.core.errors import DamagedError, LostError, MissingError, StoreError, suggest
from diffadapt.core.foreign import parse
from diffadapt.core.record import Score
from diffadapt.core.redact import redact, scrub
from diffadapt.core.store import Store, safe_name

SUMS = "SHA256SUMS"
"""Checksums of a finished run's files, as ``sha256sum -c`` reads them."""
LIVE = ("status.json", SUMS)
"""Files that change while a run is looked at; TensorBoard's folder is not written by this class."""
COPIES = ("model/", "figures/")
"""Folders of large files that the end of every run copies from the store anew."""
PLANNED = "planned.json"
"""Store names of all that a run makes, written before the work begins: garbage collection spares them."""
STAGES = "stages.json"
"""What a run that is going on can be shown by: ``class_names``, and ``stages``: name -> kind, inputs, folder
of its part of :data:`PLANNED` (empty: it stores nothing), fit."""


_SUM = re.compile(r"^([0-9a-f]{64})  (.+)$")


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
        names = [n for n in self.runs.list("") if not n.startswith((".", "store.json"))]
        stamps = self.runs.each(self._stamp, names)
        return [n for _, n in sorted(zip(stamps, names, strict=True), reverse=True)]

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
        self._written: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._sums: dict[str, str] | None = None

    @property
    def url(self) -> str:
        return posixpath.join(self.place.root, self.name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder whole or not at all; that of a finished run gets a new checksum."""
        sealed = name not in LIVE and self.sums()
        if sealed and name in sealed:  # between the two it has none, which is better than a wrong one
            self._write_sums({n: s for n, s in sealed.items() if n != name})
        self.place.write_bytes(posixpath.join(self.name, name), data)
        self._written[name] = hashlib.sha256(data).hexdigest()
        if sealed:
            self._write_sums({**sealed, name: self._written[name]})

    def read(self, name: str) -> bytes:
        """A file of the folder. StoreError when it is missing, or not what a finished run has written."""
        data = self.place.read_bytes(posixpath.join(self.name, name))
        if name not in LIVE and not self._fits(name, data):
            self._sums = None  # another process may have rewritten both
            data = self.place.read_bytes(posixpath.join(self.name, name))
            if not self._fits(name, data):
                raise self._damaged(name)
        return data

    def remove(self, name: str) -> None:
        self.place.remove(posixpath.join(self.name, name))
        self._written.pop(name, None)
        self._before.pop(name, None)

    def seal(self) -> None:
        """Write the checksums of all files that this object wrote, and those of before of the others that
        are still there: the run is finished."""
        kept = {n: s for n, s in self._before.items() if n not in self._written and self.has(n)}
        self._write_sums({n: s for n, s in {**kept, **self._written}.items() if n not in LIVE})

    def unseal(self) -> None:
        """Begin to work on the run (again): what is damaged goes; there are no checksums until its end. Those
        of files that are not written again are kept."""
        damaged = self.damage(but=COPIES)
        before = {} if SUMS in damaged else self.sums()
        self._before = {n: s for n, s in before.items() if n not in damaged}
        for name in damaged:
            self.remove(name)
        self.remove(SUMS)
        self._sums, self._written = {}, {}

    def damage(self, but: tuple[str, ...] = ()) -> list[str]:
        """Names of the files that are missing or not what the finished run wrote; those that begin with
        ``but`` are not looked at."""
        try:
            sums = self.sums()
        except LostError:
            return [SUMS]
        result = []
        for name in sorted(n for n in sums if not n.startswith(but)):
            try:
                data = self.place.read_bytes(posixpath.join(self.name, name))
            except MissingError:
                result.append(name)
            else:
                if hashlib.sha256(data).hexdigest() != sums[name]:
                    result.append(name)
        return result

    def sums(self) -> dict[str, str]:
        """File -> SHA-256 of a finished run; empty for others and for those of earlier versions. StoreError
        when they are damaged."""
        if self._sums is None:
            if not self.has(SUMS):
                self._sums = {}
            else:
                lines = self.place.read_bytes(posixpath.join(self.name, SUMS)).decode(errors="replace")
                found = [_SUM.match(line) for line in lines.splitlines()]
                if not all(found) or (lines and not lines.endswith("\n")):  # cut, it may end within a name
                    raise self._damaged(SUMS)
                self._sums = {m[2]: m[1] for m in found if m}
        return self._sums

    def clear_leftovers(self) -> None:
        """Remove what killed writers left in the folder."""
        self.place.clear_leftovers([self.name], below=True)

    def _fits(self, name: str, data: bytes) -> bool:
        wanted = self.sums().get(name)
        return wanted is None or hashlib.sha256(data).hexdigest() == wanted

    def _write_sums(self, sums: dict[str, str]) -> None:
        lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
        self.place.write_bytes(posixpath.join(self.name, SUMS), lines.encode())
        self._sums = dict(sums)

    def _damaged(self, name: str) -> StoreError:
        return DamagedError(
            f"The file {name} of {self.name} is damaged: run its recipe or sweep again to rewrite it; what"
            " the store holds is served."
        )

    def has(self, name: str) -> bool:
        return self.place.exists(posixpath.join(self.name, name))

    def manifest(self) -> dict[str, Any]:
        if not self.has("manifest.json"):
            raise MissingError(
                f"The run {self.name} has no manifest yet: it did not come to its end; run its recipe again"
                " to go on."
            )
        data = self.place.read_bytes(posixpath.join(self.name, "manifest.json"))
        value = manifest.load(data, self.name)  # of another format first: that is no damage
        if not self._fits("manifest.json", data):
            self.read("manifest.json")
        return value

    def planned(self) -> list[str]:
        """Store names of the shards and fits that this run refers to, finished or not, in the order of the
        plan; empty when nothing is known."""
        return list(parse(self.read(PLANNED), largest=None)) if self.has(PLANNED) else []

    def stages(self) -> dict[str, Any]:
        """:data:`STAGES` of the run; empty for those of earlier versions."""
        try:
            value = parse(self.read(STAGES)) if self.has(STAGES) else {}
        except ValueError:
            value = {}
        return value if isinstance(value, dict) else {}

    def scores(self) -> list[Score]:
        """The run's scores with the roles of their rows. StoreError when they are not there or damaged."""
        if not self.has("scores.parquet"):
            raise MissingError(f"The run {self.name} has no scores yet: run its recipe again to finish it.")
        try:
            data = self.read("scores.parquet")
            return record.from_bytes(data, self._rows())
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, LostError):
                raise
            raise DamagedError(
                f"The scores of {self.name} are damaged: run its recipe again; it is served from the store."
            ) from None

    def _rows(self) -> list[dict[str, Any]]:
        try:
            return self.manifest().get("rows") or []
        except LostError:  # without a manifest there are scores, but nothing is stated of their rows
            return []

    def status(self) -> dict[str, Any]:
        try:
            status = parse(self.read("status.json"))
        except (LostError, ValueError):
            status = None
        return status if isinstance(status, dict) else {"state": "unknown"}

    def write_status(self, state: str, nodes: dict[str, Any], **more: Any) -> None:
        more = {"job": job, **more} if (job := current_job()) else more
        self.write(
            "status.json",
            json.dumps(scrub({"state": state, "updated": time.time(), "nodes": nodes, **more})).encode(),
        )

"""Trackers of fits and runs, and a folder for their files on any location: written in place when local,
uploaded at the end when remote."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from diffadapt.core.errors import StoreError
from diffadapt.core.files import scratch
from diffadapt.core.location import locate
from diffadapt.core.redact import scrub
from diffadapt.core.runs import Run
from diffadapt.core.store import is_local
from diffadapt.data.export import fitting
from diffadapt.train.trackers.base import Trackers

TENSORBOARD = "tensorboard"


class Logs:
    """A context manager for one fit: its trackers, and a local folder whose files end up under
    ``<log_dir>/<node>``. ``log_dir``: URL of the folder tensorboard/ of a run."""

    def __init__(self, log_dir: str, node: str, trackers: Sequence[str]):
        self.fs, self.path = locate(posixpath.join(log_dir, fitting(node)), StoreError)
        self.local = is_local(self.fs)
        place, self.run = posixpath.split(posixpath.dirname(log_dir))
        self.parent = posixpath.basename(posixpath.dirname(place)) if place.endswith("/trials") else ""
        self.node, self.names = node, trackers

    def __enter__(self) -> Logs:
        self._scratch = nullcontext(self.path) if self.local else scratch("tb")
        self.folder = self._scratch.__enter__()
        self.trackers = Trackers(self.names, self.run, self.node, self.folder, self.parent)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.trackers.close()
            if not self.local:
                self.fs.put(self.folder.rstrip("/") + "/", self.path.rstrip("/") + "/", recursive=True)
        finally:
            self._scratch.__exit__(*error)


def parameters(recipe: str, digest: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What trackers are told of a recipe: its name, the digest of what it is, its settings by dotted
    names."""
    return {"recipe": recipe, "digest": digest, **_flat(scrub(dict(config)))}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= (
            _flat(inner, f"{prefix}{name}.") if isinstance(inner, Mapping) else {f"{prefix}{name}": inner}
        )
    return found


def track_begin(run: Run, trackers: Sequence[str], told: Mapping[str, Any]) -> None:
    """Tell the trackers that a run or a sweep begins, with its :func:`parameters`."""
    if names := _others(trackers):
        with Logs(posixpath.join(run.url, TENSORBOARD), "", names) as logs:
            logs.trackers.begin(told)


def track_run(
    run: Run,
    trackers: Sequence[str],
    told: Mapping[str, Any] | None = None,
    state: str = "finished",
    summary: Mapping[str, float | None] | None = None,
) -> None:
    """Tell the trackers the scores, the figures, the numbers of ``summary`` that are there, and the end of a
    run. TensorBoard's files hold fits alone."""
    names = _others(trackers)
    if not names:
        return
    from diffadapt.data.image import decode

    with Logs(posixpath.join(run.url, TENSORBOARD), "", names) as logs:
        if state == "finished" and run.has("scores.parquet"):
            logs.trackers.scores(run.scores())
        pictures = {
            file.removesuffix(".png"): decode(run.read(f"figures/{file}"), 3, file)
            for file in run.place.list(posixpath.join(run.name, "figures"))
            if file.endswith(".png") and state == "finished"
        }
        if pictures:
            logs.trackers.figures(0, pictures)
        if numbers := {k: v for k, v in (summary or {}).items() if v is not None}:
            logs.trackers.summary(numbers)
        logs.trackers.ended(state, told or {})


def _others(trackers: Sequence[str]) -> list[str]:
    return [name for name in trackers if name != TENSORBOARD]

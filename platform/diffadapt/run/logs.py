"""Trackers of fits and runs, and a folder for their files on any location: written in place when local,
uploaded at the end when remote."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from diffadapt.core.errors import StoreError
from diffadapt.core.files import scratch
from diffadapt.core.location import locate
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
        self.run, self.node, self.names = posixpath.basename(posixpath.dirname(log_dir)), node, trackers

    def __enter__(self) -> Logs:
        self._scratch = nullcontext(self.path) if self.local else scratch("tb")
        self.folder = self._scratch.__enter__()
        self.trackers = Trackers(self.names, self.run, self.node, self.folder)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.trackers.close()
            if not self.local:
                self.fs.put(self.folder.rstrip("/") + "/", self.path.rstrip("/") + "/", recursive=True)
        finally:
            self._scratch.__exit__(*error)


def track_run(run: Run, trackers: Sequence[str]) -> None:
    """Tell the trackers the scores and figures of a run that is done. TensorBoard's files hold fits alone."""
    names = [name for name in trackers if name != TENSORBOARD]
    if not names:
        return
    from diffadapt.data.image import decode

    with Logs(posixpath.join(run.url, TENSORBOARD), "", names) as logs:
        if run.has("scores.parquet"):
            logs.trackers.scores(run.scores())
        pictures = {
            file.removesuffix(".png"): decode(run.read(f"figures/{file}"), 3, file)
            for file in run.place.list(posixpath.join(run.name, "figures"))
            if file.endswith(".png")
        }
        if pictures:
            logs.trackers.figures(0, pictures)

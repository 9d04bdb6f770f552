"""TensorBoard folders on any location: written in place when local, uploaded at the end when remote."""

from __future__ import annotations

import posixpath
import shutil
import tempfile

import fsspec

from diffadapt.core.store import is_local


class TensorBoardFolder:
    """A context manager giving a local folder whose event files end up under ``<log_dir>/<node>``."""

    def __init__(self, log_dir: str, node: str):
        self.url = posixpath.join(log_dir, node)
        self.fs, self.path = fsspec.core.url_to_fs(self.url)
        self.local = is_local(self.fs)

    def __enter__(self) -> str:
        self.folder = self.path if self.local else tempfile.mkdtemp(prefix="diffadapt-tb-")
        return self.folder

    def __exit__(self, *error: object) -> None:
        if not self.local:
            try:
                self.fs.put(self.folder.rstrip("/") + "/", self.path.rstrip("/") + "/", recursive=True)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)

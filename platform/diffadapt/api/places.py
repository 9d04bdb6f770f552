"""The root of a call or command: where the store and the run folders are."""

from __future__ import annotations

import os

from diffadapt.core.runs import Root

Place = str | os.PathLike[str] | Root


def default_root() -> str:
    """DIFFADAPT_ROOT, else ./diffadapt-data."""
    return os.environ.get("DIFFADAPT_ROOT", "diffadapt-data")


def open_root(place: Place | None = None) -> Root:
    """The root at ``place`` (a folder or URL; default: :func:`default_root`). StoreError when it holds a
    store of another format."""
    root = place if isinstance(place, Root) else Root(os.fspath(place or "") or default_root())
    root.store.check()
    return root

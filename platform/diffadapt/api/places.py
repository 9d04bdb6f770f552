"""The root of a call or command: where the store and the run folders are."""

from __future__ import annotations

import os

from diffadapt.core.errors import StoreError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root

Place = str | os.PathLike[str] | Root


def default_root() -> str:
    """DIFFADAPT_ROOT, else ./diffadapt-data."""
    return os.environ.get("DIFFADAPT_ROOT", "diffadapt-data")


def open_root(place: Place | None = None) -> Root:
    """The root at ``place`` (a folder or URL; default: :func:`default_root`). StoreError when it holds a
    store of another format, is a file, or no place at all."""
    if place is not None and not isinstance(place, (str, os.PathLike, Root)):
        raise StoreError(f"The root is {place!r} ({type(place).__name__}): give a folder or a URL.")
    root = place if isinstance(place, Root) else Root(os.fspath(place or "") or default_root())
    if root.store.local and os.path.isfile(root.location):
        raise StoreError(
            f"The root {redact(root.location)} is not a folder: give another --root, a folder or a URL."
        )
    root.store.check()
    return root

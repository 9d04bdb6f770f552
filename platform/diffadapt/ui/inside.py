"""A root from which nothing beyond it can be read: whatever a file names, and wherever a link leads."""

from __future__ import annotations

import os
import posixpath

from diffadapt.core.errors import StoreError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root
from diffadapt.core.store import Store


class Outside(StoreError):
    """A name that leads out of the root."""


class InsideStore(Store):
    """A store that opens no name which leads out of ``walls``, the folder of the whole root, and writes
    nothing. Every method of a store goes through :meth:`join`, which is therefore the one place to check."""

    def __init__(self, root: str, walls: str):
        super().__init__(root)
        self.walls = walls
        self._real = os.path.realpath(walls) if self.local else walls

    def below(self, name: str) -> InsideStore:
        self.join(name)
        return InsideStore(posixpath.join(self.root, name), self.walls)

    def join(self, *parts: str) -> str:
        """The path of a name. Raises Outside for one that is absolute, climbs, or is a link out of the
        root."""
        for part in parts:
            if part.startswith("/") or ".." in part.split("/") or "\0" in part:
                raise self._outside(part)
        path = super().join(*parts)
        if self.local:
            real = os.path.realpath(path)
            if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
                raise self._outside(posixpath.join(*parts) if parts else "")
        return path

    def write_bytes(self, name: str, data: bytes) -> None:
        raise StoreError(f"{name} is not written: the page over {redact(self.walls)} only reads.")

    def create(self, name: str, data: bytes) -> bool:
        raise StoreError(f"{name} is not written: the page over {redact(self.walls)} only reads.")

    def remove(self, name: str) -> None:
        raise StoreError(f"{name} is not removed: the page over {redact(self.walls)} only reads.")

    def _outside(self, name: str) -> Outside:
        return Outside(
            f"{redact(name)[:200]!r} leads out of the root {redact(self.walls)}, and the page reads nothing"
            " beyond it: put what it should show into the root itself."
        )


class InsideRoot(Root):
    """A :class:`Root` whose stores are :class:`InsideStore`."""

    def __init__(self, location: str):
        super().__init__(location)
        walls = self.location
        self.store, self.runs, self.sweeps, self.ledger = (
            InsideStore(posixpath.join(walls, name), walls) for name in ("store", "runs", "sweeps", "ledger")
        )

"""What a kind of archive is: it lists its members, and gives the bytes of one."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from diffadapt.core.discover import Seam


@dataclass(frozen=True)
class Member:
    """One file in an archive. ``place`` is the kind's own; ``stamp`` changes with the content, as far as the
    archive tells."""

    name: str
    size: int
    place: Any = None
    stamp: str = ""
    plain: bool = True
    """A file of its own; False: a link, a part of a sparse file, or encrypted, of which nothing is read."""


@dataclass(frozen=True)
class Archive:
    """Base of all kinds. Nothing is ever unpacked to the disk under a member's name."""

    endings: ClassVar[tuple[str, ...]] = ()
    """How such files are called, in small letters."""

    def open(self, stream: Any) -> Any:
        """A handle on the archive in ``stream`` (binary, seekable), used by one thread at a time. Raises
        OSError or ValueError for what is no archive of this kind, or unpacks to far more than it is."""
        return stream

    def members(self, handle: Any) -> Iterable[Member]:
        """Its files; folders are none. Raises as :meth:`open` does."""
        raise NotImplementedError

    def listed(self, handle: Any) -> tuple[list[Member], str]:
        """Its files, and what there is to say of the archive: a clause, or nothing. Raises as :meth:`open`
        does."""
        return list(self.members(handle)), ""

    def read(self, handle: Any, member: Member) -> bytes:
        """The bytes of one. Raises OSError or ValueError for a damaged one."""
        raise NotImplementedError


ARCHIVES = Seam("kind of archive", "diffadapt.data.archives", "DIFFADAPT_ARCHIVES", Archive)

SLACK, RATIO = 2**30, 200
"""An archive may unpack to so many bytes and so many times its own size more; images hardly compress."""


def demand_size(unpacked: int, packed: int) -> None:
    """Raise ValueError for an archive that unpacks to far more than images do (a zip bomb)."""
    if unpacked > SLACK + RATIO * packed:
        raise ValueError(f"its {packed:,} bytes unpack to {unpacked:,}, as no archive of images does")


@functools.cache
def endings() -> dict[str, str]:
    """Ending of a file's name -> the kind of archive, the longest endings first."""
    found = {ending: name for name, kind in ARCHIVES.all().items() for ending in kind.endings}
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def kind_of(name: str) -> Archive | None:
    """The kind of archive that a file is called as; None: it is none."""
    small = name.lower()
    return next((ARCHIVES.load(kind)() for ending, kind in endings().items() if small.endswith(ending)), None)

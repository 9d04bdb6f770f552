"""Tar files, also compressed ones; these are uncompressed once a process, into a file without a name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from diffadapt.data.archives.base import Archive, Member, demand_size

OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""By the first two bytes of the file, whatever it is called."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Tar(Archive):
    endings: ClassVar[tuple[str, ...]] = (
        ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz",
    )  # fmt: skip

    def open(self, stream: Any) -> Any:
        packed = stream.seek(0, 2)
        stream.seek(0)
        opener = OPENERS.get(stream.read(2))
        stream.seek(0)
        if opener is None:
            return stream
        whole, unpacked = tempfile.TemporaryFile(), 0
        try:
            with opener(stream) as compressed:
                while chunk := compressed.read(CHUNK):
                    unpacked += len(chunk)
                    demand_size(unpacked, packed)
                    whole.write(chunk)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"it is damaged: {error}") from None
        return whole

    def members(self, handle: Any) -> Iterator[Member]:
        yield from self.listed(handle)[0]

    def listed(self, handle: Any) -> tuple[list[Member], str]:
        handle.seek(0)
        found: list[Member] = []
        try:
            with tarfile.open(fileobj=handle, mode="r:") as archive:
                for info in archive:
                    if not info.isdir():
                        plain = info.isreg() and not info.issparse()
                        stamp = f"{info.offset_data}-{info.mtime}"
                        found.append(Member(info.name, info.size, info.offset_data, stamp, plain))
                end = archive.offset
        except tarfile.TarError as error:
            raise ValueError(f"it is no tar file or damaged: {error}") from None
        return found, self._after(handle, end, len(found))

    def _after(self, handle: Any, end: int, count: int) -> str:
        """What there is to say of what lies behind the last member: tarfile stops in silence at what is no
        header."""
        handle.seek(end)
        block = handle.read(tarfile.BLOCKSIZE)
        if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
            raise ValueError(f"it is damaged or breaks off after {count:,} members")
        if not block:
            return (
                f"after {count:,} members it ends without the mark of a tar file's end, so it may have been"
                " cut: compare it with where it came from"
            )
        while chunk := handle.read(CHUNK):
            if any(chunk):
                return f"what comes after its end mark, behind {count:,} members, is not read"
        return ""

    def read(self, handle: Any, member: Member) -> bytes:
        handle.seek(member.place)
        data = handle.read(member.size)
        if len(data) < member.size:
            raise ValueError("the archive breaks off")
        return data

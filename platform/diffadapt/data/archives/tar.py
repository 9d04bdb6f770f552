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
        handle.seek(0)
        try:
            with tarfile.open(fileobj=handle, mode="r:") as archive:
                for info in archive:
                    if not info.isdir():
                        plain = info.isreg() and not info.issparse()
                        stamp = f"{info.offset_data}-{info.mtime}"
                        yield Member(info.name, info.size, info.offset_data, stamp, plain)
                end, count = archive.offset, len(archive.getmembers())
        except tarfile.TarError as error:
            raise ValueError(f"it is no tar file or damaged: {error}") from None
        handle.seek(end)
        block = handle.read(tarfile.BLOCKSIZE)  # tarfile ends in silence at what is no header
        if block and any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
            raise ValueError(f"it is damaged or breaks off after {count:,} members")

    def remark(self, handle: Any) -> str:
        with tarfile.open(fileobj=_start(handle), mode="r:") as archive:
            count, end = len(archive.getmembers()), archive.offset
        handle.seek(end)
        chunk = handle.read(CHUNK)
        if not chunk:
            return (
                f"after {count:,} members it ends without the mark of a tar file's end, so it may have been"
                " cut: compare it with where it came from"
            )
        while chunk and not any(chunk):
            chunk = handle.read(CHUNK)
        return f"what comes after its end mark, behind {count:,} members, is not read" if chunk else ""

    def read(self, handle: Any, member: Member) -> bytes:
        handle.seek(member.place)
        data = handle.read(member.size)
        if len(data) < member.size:
            raise ValueError("the archive breaks off")
        return data

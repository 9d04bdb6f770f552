"""Zip files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from diffadapt.data.archives.base import Archive, Member, demand_size

ENCRYPTED = 1
LINK = 0o120000


@dataclass(frozen=True)
class Zip(Archive):
    endings: ClassVar[tuple[str, ...]] = (".zip",)

    def open(self, stream: Any) -> zipfile.ZipFile:
        packed = stream.seek(0, 2)
        try:
            handle = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"it is no zip file or damaged: {error}") from None
        demand_size(sum(info.file_size for info in handle.infolist()), packed)
        return handle

    def members(self, handle: zipfile.ZipFile) -> Iterator[Member]:
        for info in handle.infolist():
            if info.is_dir():
                continue
            link = (info.external_attr >> 16) & 0o170000 == LINK
            plain = not link and not info.flag_bits & ENCRYPTED
            yield Member(info.filename, info.file_size, info, f"{info.CRC:08x}", plain)

    def read(self, handle: zipfile.ZipFile, member: Member) -> bytes:
        try:
            return handle.read(member.place)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(str(error)) from None

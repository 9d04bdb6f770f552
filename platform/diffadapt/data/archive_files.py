"""The members of archives as the files of a folder, so that whatever reads folders reads archives too."""

from __future__ import annotations

import io
import os
import posixpath
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.archives.base import Archive, Member, kind_of
from diffadapt.data.hashes import file_stamp
from diffadapt.data.image import FORMATS

LARGEST = 1 << 30
"""Bytes of a member that is read; an image is smaller."""
APPLE = "__MACOSX"
IMAGES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


@dataclass(frozen=True)
class Part:
    """One archive: ``path`` on the file system ``fs``."""

    fs: Any
    path: str
    kind: Archive
    stamp: str

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


class ArchiveFiles:
    """What fsspec's file systems are asked for here, over the members of archives. ``root`` is the folder
    that they lie in, which is on no disk. Only the listing is held; archives are opened once a process."""

    protocol = "archive"

    def __init__(self, root: str, parts: Sequence[Part]):
        self.root, self.parts = root, tuple(parts)
        self.entries: dict[str, tuple[int, Member]] = {}
        self.notes: list[str] = []
        self._start()
        self._list()

    def _start(self) -> None:
        self._handles: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_handles", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _list(self) -> None:
        odd: dict[str, list[str]] = {"with a name that leads out of it": [], "that is no file of its own": []}
        found: list[tuple[str, int, Member]] = []
        for number, part in enumerate(self.parts):
            try:
                members, remark = part.kind.listed(self._handle(number))
                self.notes += [f"{part.path}: {remark}."] if remark else []
            except (OSError, ValueError, EOFError) as error:
                raise DataError(
                    f"{part.path} cannot be read as an archive ({error}): get it again."
                ) from None
            for member in members:
                name = _safe(member.name)
                if name is None:
                    odd["with a name that leads out of it"].append(member.name)
                elif name.split("/")[0] == APPLE:
                    continue
                elif not member.plain or member.size > LARGEST:
                    odd["that is no file of its own"].append(member.name)
                else:
                    found.append((name, number, member))
        where = self.parts[0].path if len(self.parts) == 1 else f"{len(self.parts)} archives"
        for what, names in odd.items():
            if names:
                shown = ", ".join(repr(n)[:80] for n in names[:3])
                self.notes.append(
                    f"{where}: {len(names):,} member{'s' * (len(names) != 1)}"
                    f" {what if len(names) == 1 else what.replace('that is no file', 'that are no files')}"
                    f" {'is' if len(names) == 1 else 'are'} left out, such as {shown}."
                )
        top = _wrapper([name for name, _, _ in found], _stem(self.parts[0].name))
        if top:
            self.notes.append(f"{where}: all lies in its folder {top[:-1]!r}, which counts as the top.")
        self.entries = self._named([(name.removeprefix(top), *rest) for name, *rest in found])

    def _named(self, found: Sequence[Any]) -> dict[str, tuple[int, Member]]:
        """Path -> member. Of members of one name in one archive the last counts, as for whoever unpacks it;
        where several archives have a name, all files are called after their archive."""
        owners: dict[str, set[int]] = {}
        for name, number, _ in found:
            owners.setdefault(name, set()).add(number)
        if double := [name for name, numbers in owners.items() if len(numbers) > 1]:
            self.notes.append(
                f"{len(self.parts)} archives: {len(double):,} names, such as {double[0]!r}, are in several of"
                " them, so all files are called after their archive too."
            )
        result, again = {}, []
        for name, number, member in found:
            if double:
                folder, base = posixpath.split(name)
                name = posixpath.join(folder, f"{_stem(self.parts[number].name)}-{base}")
            place = posixpath.join(self.root, name)
            again += [name] if place in result else []
            result[place] = (number, member)
        if again:
            self.notes.append(
                f"{len(again):,} name{'s' * (len(again) != 1)} of members, such as {again[0]!r}, stand"
                f"{'s' * (len(again) == 1)} there several times: the last counts, as where it is unpacked."
            )
        return result

    def _handle(self, number: int) -> Any:
        if number not in self._handles:
            part = self.parts[number]
            self._handles[number] = part.kind.open(part.fs.open(part.path, "rb"))
        return self._handles[number]

    def unstrip_protocol(self, path: str) -> str:
        return path

    def cat_file(self, path: str) -> bytes:
        """Raises ItemError for a damaged member, and what the file system of its archive raises."""
        number, member = self._entry(path)
        try:
            with self._lock:
                return self.parts[number].kind.read(self._handle(number), member)
        except (ValueError, EOFError) as error:
            name = posixpath.relpath(path, self.root)
            raise ItemError(f"{name} is a damaged member of {self.parts[number].name} ({error}).") from None

    def open(self, path: str, mode: str = "rb") -> io.BytesIO:
        """What lies at ``path``; of a damaged member its stamp, so that a set with one has a fingerprint."""
        try:
            return io.BytesIO(self.cat_file(path))
        except ItemError:
            return io.BytesIO(f"damaged {self._entry(path)[1].stamp}".encode())

    def size(self, path: str) -> int:
        return self._entry(path)[1].size

    def info(self, path: str) -> dict[str, Any]:
        if self.isdir(path):
            return {"name": path, "type": "directory", "size": 0}
        number, member = self._entry(path)
        return {
            "name": path, "type": "file", "size": member.size,
            "ETag": f"{self.parts[number].path}:{self.parts[number].stamp}:{member.stamp}",
        }  # fmt: skip

    def isfile(self, path: str) -> bool:
        return path in self.entries

    def isdir(self, path: str) -> bool:
        folder = path.rstrip("/") + "/"
        return any(name.startswith(folder) for name in self.entries)

    def exists(self, path: str) -> bool:
        return self.isfile(path) or self.isdir(path)

    def find(self, path: str, withdirs: bool = False, detail: bool = False, **_: Any) -> Any:
        folder = path.rstrip("/") + "/"
        found = {n: {"name": n, "type": "file", "size": m.size} for n, (_, m) in self.entries.items()}
        found = {name: info for name, info in sorted(found.items()) if name.startswith(folder)}
        if withdirs:
            for name in list(found):
                while len(name := posixpath.dirname(name)) >= len(folder):
                    found[name] = {"name": name, "type": "directory", "size": 0}
        return found if detail else sorted(found)

    def ls(self, path: str, detail: bool = True) -> list[Any]:
        folder = path.rstrip("/") + "/"
        tops = {folder + name[len(folder) :].split("/")[0] for name in self.find(path)}
        infos = [
            {"name": n, "type": "file" if self.isfile(n) else "directory", "size": 0} for n in sorted(tops)
        ]
        return infos if detail else [info["name"] for info in infos]

    def _entry(self, path: str) -> tuple[int, Member]:
        try:
            return self.entries[path]
        except KeyError:
            raise FileNotFoundError(2, "no such member of the archive", path) from None


def is_archive(path: str) -> bool:
    """Whether a file is called as an archive is."""
    return kind_of(path) is not None


def open_archives(fs: Any, paths: Sequence[str]) -> ArchiveFiles:
    """The members of one or several archives, these in the order of their names. Raises DataError."""
    parts = []
    for path in sorted(paths):
        kind = kind_of(path)
        assert kind is not None, f"{path} is no archive"
        parts.append(Part(fs, path, kind, "-".join(map(str, file_stamp(fs, path) or ("?",)))))
    root = parts[0].path if len(parts) == 1 else posixpath.dirname(parts[0].path)
    return ArchiveFiles(f"{root}!", parts)


def _safe(name: str) -> str | None:
    """A member's name as a relative path; None for one that is absolute or leads out of the archive."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if not parts or name.startswith("/") or drive or ".." in parts or "\0" in name:
        return None
    return "/".join(parts)


def _wrapper(names: Sequence[str], stem: str) -> str:
    """The folders that everything lies in, with a slash; '' where nothing is around the classes. A single
    folder of images is a class of its own, unless it is called as the archive."""
    prefix = ""
    images = [n for n in names if n.lower().endswith((*IMAGES, ".parquet"))]
    while images:
        tops = {n[len(prefix) :].split("/")[0] for n in images}
        below = [n[len(prefix) :] for n in images]
        if len(tops) > 1 or not all("/" in n for n in below):
            break
        (top,) = tops
        if not any(n.count("/") > 1 for n in below) and top.casefold() != stem.casefold():
            break
        prefix += f"{top}/"
    return prefix


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return os.path.splitext(stem)[0] if suffix in (".gz", ".bz2", ".xz") else stem

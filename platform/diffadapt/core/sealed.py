"""Folders of fits in the store, sealed: ``_SUCCESS`` holds the SHA-256 of every file, and nothing is read
from them unchecked.

Folders that an earlier version committed have no checksums; they are taken as they are, and get theirs the
first time that all of them is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from diffadapt.core import checked
from diffadapt.core.errors import DamagedError, LostError, MissingError, StoreError
from diffadapt.core.redact import redact
from diffadapt.core.store import Store

SUCCESS = "_SUCCESS"
FAMILY = "family.json"
OWN = (SUCCESS, FAMILY)
"""The store's own files in a fit's folder."""
_checked: dict[str, tuple[Any, ...]] = {}
"""What the files of a local folder looked like when their content was last checked in this process."""


class Sealed:
    """The folder ``path`` of a fit in ``store``."""

    def __init__(self, store: Store, path: str):
        self.store, self.path = store, path.rstrip("/")

    def exists(self) -> bool:
        """Whether it was committed."""
        return self.store.exists(self._name(SUCCESS))

    def commit(self, digest: str, folder: str) -> None:
        """Store the files below the local ``folder``, then their checksums as ``_SUCCESS``."""
        files = {}
        for base, _, names in os.walk(folder):
            for name in sorted(names):
                full = os.path.join(base, name)
                with open(full, "rb") as handle:
                    data = handle.read()
                relative = os.path.relpath(full, folder).replace(os.sep, "/")
                self.store.write_bytes(self._name(relative), data)
                files[relative] = hashlib.sha256(data).hexdigest()
        self._seal(digest, files)

    def names(self) -> list[str]:
        """Its files, the store's own left out."""
        seal = self._read_seal()
        return sorted(seal["files"]) if "files" in seal else self._listed()

    def read(self, name: str) -> bytes:
        """One of its files. StoreError when it is missing or not what was committed."""
        return self._whole(name, self._read_seal().get("files"))

    def contents(self, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[str, bytes]]:
        """(name, content) of each of its files whose name is ``wanted``; the checksums are read once.
        StoreError at one that is missing or not what was committed."""
        files = self._read_seal().get("files")
        for name in sorted(files) if files is not None else self._listed():
            if wanted(name):
                yield name, self._whole(name, files)

    def _whole(self, name: str, files: Mapping[str, str] | None) -> bytes:
        data = self.store.read_bytes(self._name(name))
        if files is not None and hashlib.sha256(data).hexdigest() != files.get(name):
            raise self._damaged(name)
        return data

    def read_json(self, name: str) -> Any:
        """The value of a JSON file. StoreError when it is missing or damaged."""
        data = self.read(name)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self._damaged(name) from None

    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file; a folder without them gets those of what it holds now."""
        seal = self._read_seal()
        if "files" in seal:
            return seal["files"]
        files = {name: self.store.sha256(self._name(name)) for name in self._listed()}
        with suppress(StoreError):  # a store that may only be read
            if seal["digest"]:
                self._seal(seal["digest"], files)
        return files

    def demand(self) -> None:
        """StoreError that names the first file which is missing or not what was committed. What was found
        whole is not read again by this process while it looks the same (local stores)."""
        for name in self.damage():
            raise self._damaged(name)

    def damage(self, thorough: bool = False) -> Iterator[str]:
        """Names of the files that are missing or not what was committed. ``thorough``: read them even if
        they were found whole before; family.json is then judged too."""
        try:
            files = self.checksums()
        except LostError:
            yield SUCCESS
            return
        looks = self._looks(files)
        if thorough or looks is None or _checked.get(self.store.join(self.path)) != looks:
            whole = True
            for name, sha in sorted(files.items()):
                if self._sha256(name) != sha:
                    whole = False
                    yield name
            if whole and looks is not None:
                _checked[self.store.join(self.path)] = looks
        if thorough:
            yield from family_damage(self.store, self.path)

    def _seal(self, digest: str, files: Mapping[str, str]) -> None:
        self.store.write_bytes(self._name(SUCCESS), checked.to_json({"digest": digest, "files": dict(files)}))

    def _read_seal(self) -> dict[str, Any]:
        """``digest`` and, from this version on, ``files``. StoreError when it is damaged."""
        data = self.store.read_bytes(self._name(SUCCESS))
        if not data and not self.store.exists(self._name(FAMILY)):
            # made by hand: taken as it is, and left so; no run leaves an empty one, but a failing disk does
            return {"digest": ""}
        try:
            seal = checked.from_json(data)
            digest = seal["digest"]
            if not isinstance(digest, str) or not self.path.endswith(f"-{digest[:12]}"):
                raise ValueError("it is of another fit")
            if "files" not in seal and set(seal) != {"digest"}:
                raise ValueError("it is not what was committed")
            return seal
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged(SUCCESS) from None

    def _listed(self) -> list[str]:
        return sorted(name for name in self.store.files(self.path) if name not in OWN)

    def _looks(self, names: Mapping[str, str]) -> tuple[Any, ...] | None:
        if not self.store.local:
            return None
        try:
            stats = [os.stat(self.store.join(self.path, name)) for name in sorted(names)]
        except OSError:
            return None
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)

    def _sha256(self, name: str) -> str:
        """Of a file as it is now; empty when it is missing."""
        try:
            return self.store.sha256(self._name(name))
        except MissingError:
            return ""

    def _name(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def _damaged(self, name: str) -> StoreError:
        return damaged(f"{redact(self.store.root)}/{self._name(name)}")


def damaged(name: str) -> StoreError:
    """The sentence on a stored file that is not what was written."""
    return DamagedError(
        f"The stored file {name} is damaged: `diffadapt cache verify --repair` drops it with all that must go"
        " with it, and the same command then makes it again."
    )


def read_family(store: Store, folder: str) -> dict[str, Any]:
    """family.json of a family or fit. StoreError when it is missing or damaged."""
    name = posixpath.join(folder, FAMILY)
    try:
        return checked.from_json(store.read_bytes(name))
    except (ValueError, RecursionError):
        raise damaged(f"{redact(store.root)}/{name}") from None


def unsealed(name: str, data: bytes) -> bytes:
    """What the store's own file ``name`` of a fit held before it had checksums. Digests of models that stand
    on a fitted folder count this, so that a seal does not change them."""
    try:
        value = checked.from_json(data)
    except ValueError:
        return data
    if name == SUCCESS:
        return json.dumps({"digest": value.get("digest")}).encode()
    return json.dumps(value, indent=1, sort_keys=True).encode()


def family_damage(store: Store, folder: str) -> list[str]:
    """[family.json] when that file of a folder is there and damaged, else nothing."""
    try:
        if store.exists(posixpath.join(folder, FAMILY)):
            read_family(store, folder)
    except LostError:
        return [FAMILY]
    return []

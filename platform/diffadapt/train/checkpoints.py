"""Training checkpoints on any fsspec location: atomic, checked by digest, with a fall-back to the one
before."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffadapt.core.causes import chain, full_disk, reason
from diffadapt.core.errors import StoreError
from diffadapt.core.files import scratch, temporary
from diffadapt.core.location import locate, reads_fail, there
from diffadapt.core.redact import redact
from diffadapt.core.store import is_local

_NAME = re.compile(r"^step-(\d{9})-([0-9a-f]{16})\.pt$")
log = logging.getLogger(__name__)


class Checkpoints:
    """The newest ``keep`` states of one run, as ``<location>/step-<step>-<digest>.pt``.

    A state holds tensors and primitives only and is read back with ``weights_only=True``. A local file
    appears by rename, a remote one by a single put; the digest in the name tells a torn file from a whole
    one.
    """

    def __init__(self, location: str, keep: int = 2):
        if keep < 1:
            raise ValueError("keep must be at least 1")
        self.location, self.keep = str(location), keep
        self._fs, self._root = locate(self.location, StoreError)
        self._local = is_local(self._fs)

    def save(self, step: int, state: dict[str, Any]) -> str:
        """Store ``state`` for ``step`` (finished steps) and drop all but the newest ``keep``; returns its
        path.

        Raises StoreError if the location cannot be written.
        """
        try:
            try:
                path = self._write(step, state)
            except FileNotFoundError:  # who finished the same fit meanwhile has removed the folder
                path = self._write(step, state)
        except (OSError, RuntimeError) as error:  # torch.save turns what the file raised into a RuntimeError
            raise StoreError(
                f"The checkpoint of step {step} could not be written to {redact(self.location)}"
                f" ({_why_not(error)}): mend that, then run the same command; earlier checkpoints and"
                " finished shards are kept."
            ) from error
        self._prune(step, path)
        return path

    def _write(self, step: int, state: dict[str, Any]) -> str:
        self._fs.makedirs(self._root, exist_ok=True)
        root = self._root.rstrip("/")
        with nullcontext(root) if self._local else scratch("fit") as folder:
            name = temporary(f"{folder}/step-{step:09d}.pt")
            try:
                with open(name, "wb") as file:
                    hashing = _Hashing(file)
                    torch.save(state, hashing)
                    file.flush()
                    os.fsync(file.fileno())
                path = f"{root}/step-{step:09d}-{hashing.sha.hexdigest()[:16]}.pt"
                if self._local:
                    os.replace(name, path)
                else:
                    self._fs.put_file(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
        return path

    def latest(self, map_location: str = "cpu") -> dict[str, Any] | None:
        """The newest readable state, or None. A torn file is skipped with a warning. StoreError where
        the place fails: every worker of a fit must find the same one."""
        for _, sha, path in reversed(self._list()):
            try:
                return self._read(path, sha, map_location)
            except Exception as error:  # whatever is wrong with this file, the one before it may be whole
                if reads_fail(error) and not isinstance(error, FileNotFoundError):
                    raise StoreError(
                        f"The checkpoint {redact(path)} cannot be read now ({_why_not(error)}): run the same"
                        " command again; the fit goes on from it."
                    ) from None
                log.warning("Skipping the unreadable checkpoint %s (%s).", redact(path), type(error).__name__)
        return None

    def steps(self) -> list[int]:
        """Steps that have a file, ascending (the files are not opened)."""
        return [step for step, _, _ in self._list()]

    def clear(self) -> None:
        """Delete every checkpoint of this location."""
        for _, _, path in self._list():
            self._fs.rm_file(path)

    def _read(self, path: str, sha: str, map_location: str) -> dict[str, Any]:
        with scratch("fit") as folder:
            local = path
            if not self._local:
                local = str(Path(folder) / "state.pt")
                self._fs.get_file(path, local)
            with open(local, "rb") as file:
                found = _digest(file)
            if found[: len(sha)] != sha:
                raise ValueError("its content does not match the digest in its name")
            return torch.load(local, map_location=map_location, weights_only=True)

    def _prune(self, step: int, path: str) -> None:
        entries = self._list()
        stale = [p for s, _, p in entries if s == step and Path(p).name != Path(path).name]
        others = sorted((s, p) for s, _, p in entries if s != step)
        # A rerun that starts over leaves newer steps of the abandoned run behind: they must not outlive this
        # one.
        stale += [p for s, p in others if s > step]
        older = [p for s, p in others if s < step]
        stale += older[: max(0, len(older) - (self.keep - 1))]
        for old in stale:
            try:
                self._fs.rm_file(old)
            except OSError as error:
                log.warning(
                    "The old checkpoint %s could not be deleted (%s).", redact(old), redact(str(error))
                )

    def _list(self) -> list[tuple[int, str, str]]:
        self._fs.invalidate_cache()
        if not there(self._fs, self._root):
            return []
        result = []
        for path in self._fs.ls(self._root, detail=False):
            match = _NAME.match(path.rstrip("/").rsplit("/", 1)[-1])
            if match:
                result.append((int(match[1]), match[2], path))
        return sorted(result)


def _why_not(error: BaseException) -> str:
    if full := full_disk(error):
        return f"the disk {full[0]}"
    seen = next((one for one in chain(error) if isinstance(one, OSError)), None)
    return redact(str(error).splitlines()[0] if seen is None else reason(seen))


def _digest(file: BinaryIO) -> str:
    sha = hashlib.sha256()
    while chunk := file.read(1 << 20):
        sha.update(chunk)
    return sha.hexdigest()


class _Hashing:
    """A write-only file that hashes what passes through it."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

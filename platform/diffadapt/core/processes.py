"""Which process owns a file: names that say so, and whether that process has surely ended."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import lru_cache
from pathlib import Path

_OWNER = re.compile(r"^([0-9a-f]{12})-(\d+)-(\d+)$")


@lru_cache(maxsize=1)
def here() -> str:
    """12 hexadecimal digits for this machine since its start and this space of process numbers (a container
    has its own)."""
    facts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            facts.append(os.readlink(name) if name.endswith("/pid") else Path(name).read_text())
        except OSError:  # not Linux
            facts.append("")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def owner() -> str:
    """``<machine>-<process>-<start>`` of this process; safe in file names, at most 45 characters."""
    return f"{here()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(name: str) -> bool:
    """Whether the process that :func:`owner` named has surely ended: False for those of other machines and
    for text that names none."""
    match = _OWNER.match(name)
    if match is None or match[1] != here():
        return False
    pid = int(match[2])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it lives and belongs to somebody else
        return False
    return _started(pid) not in (0, int(match[3])) or _is_zombie(pid)


def _started(pid: int) -> int:
    """Clock ticks between the machine's start and the process's, as Linux counts them; 0 where that is not
    known. Tells a process from a later one of the same number."""
    return int(fields[19]) if (fields := _stat(pid)) else 0


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and its parent has not yet asked for it."""
    return _stat(pid)[:1] == ["Z"]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on: the name before it may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []

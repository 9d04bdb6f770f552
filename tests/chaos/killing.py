"""Makes this process kill itself inside a commit: at a call that writes, renames, links or removes a file of
a store, a run or a cache. Armed by an environment variable of the tests; the product knows nothing of it.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "DIFFADAPT_TEST_KILL"
"""JSON: ``count`` (a file that gets the number of visits of each kind at the end), or ``kind`` and ``visit``
(the process kills itself at that visit of the kind) and ``mark`` (a file that appears first; where it is
already, nothing is killed)."""
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f-]+$")
_FOLDERS = {".leases": "lease", ".checkpoints": "checkpoint", "ledger": "ledger", "copies": "local copy"}


def kind_of(path: str) -> str:
    """What a path is part of: 'shard', 'fit', 'run', 'sweep', 'lease', 'checkpoint', 'ledger' or 'local
    copy'; empty for what is none of the product's."""
    parts = _TEMPORARY.sub("", str(path)).split("/")
    for part in parts:
        if part in _FOLDERS:
            return _FOLDERS[part]
    for folder, kind in (("sweeps", "sweep"), ("runs", "run")):
        if folder in parts:
            return kind
    if "store" in parts:
        return "shard" if parts[-1].endswith(".parquet") else "fit"
    return ""


class _Trap:
    def __init__(self, spec: dict[str, Any]):
        self.spec, self.seen, self.lock = spec, Counter(), threading.Lock()

    def visit(self, path: Any, last: Callable[[], None] | None = None) -> None:
        """A call that touches ``path`` is about to happen, or has just happened; ``last`` is done before the
        end."""
        kind = kind_of(str(path)) if isinstance(path, (str, os.PathLike)) else ""
        if not kind:
            return
        with self.lock:
            self.seen[kind] += 1
            hit = kind == self.spec.get("kind") and self.seen[kind] == self.spec["visit"]
            if hit and _first(self.spec["mark"]):
                if last is not None:
                    last()
                os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Heed the variable, if it is set."""
    spec = json.loads(os.environ.get(VARIABLE, "null"))
    if spec is None:
        return
    trap = _Trap(spec)
    if "count" in spec:
        atexit.register(lambda: _write(spec["count"], json.dumps(trap.seen)))
    for name in ("replace", "link"):
        _around(os, name, lambda source, target, *rest, **more: target, trap)
    for name in ("unlink", "remove"):
        _around(os, name, lambda path, *rest, **more: path, trap)
    fsync = os.fsync

    def torn(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        trap.visit(path, lambda: os.truncate(path, os.path.getsize(path) // 2))
        fsync(handle)

    os.fsync = torn
    if spec.get("s3"):
        _arm_s3(trap)


def _around(owner: Any, name: str, target: Callable[..., Any], trap: _Trap) -> None:
    call = getattr(owner, name)

    def wrapped(*args: Any, **more: Any) -> Any:
        trap.visit(target(*args, **more))
        result = call(*args, **more)
        trap.visit(target(*args, **more))
        return result

    setattr(owner, name, wrapped)


def _arm_s3(trap: _Trap) -> None:
    from s3fs import S3FileSystem

    for name, which in (("_pipe_file", 0), ("_put_file", 1), ("_rm_file", 0), ("_bulk_delete", 0)):
        call = getattr(S3FileSystem, name)

        async def wrapped(self: Any, *args: Any, _call: Any = call, _which: int = which, **more: Any) -> Any:
            path = args[_which] if len(args) > _which else ""
            path = path[0] if isinstance(path, list) and path else path
            trap.visit(path)
            result = await _call(self, *args, **more)
            trap.visit(path)
            return result

        setattr(S3FileSystem, name, wrapped)


def _first(mark: str) -> bool:
    try:
        handle = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with open(handle, "wb") as file:  # who it was
            file.write(Path("/proc/self/cmdline").read_bytes())
        return True
    except FileExistsError:
        return False


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

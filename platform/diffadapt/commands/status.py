"""``diffadapt status``: runs, newest first, and how far each stage is."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.runs import Run
from diffadapt.core.store import redact
from diffadapt.run.heartbeat import SILENCE


@dataclass(frozen=True)
class StatusOptions(RootOption):
    run: tyro.conf.Positional[str] = ""
    """A run's name or prefix, or 'last'; default: all runs."""


def status(argv: Sequence[str]) -> int:
    options = parse(StatusOptions, argv, "status")
    root = options.open()
    if options.run:
        run = root.run(options.run)
        print(_describe(run))
        return 0
    names = root.names()
    if not names:
        print(f"No runs under {redact(root.location)}. `diffadapt run quickstart` makes one.")
        return 0
    for name in names:
        print(_line(Run(root, name)))
    return 0


def state_of(status: dict[str, Any]) -> str:
    """The recorded state; 'interrupted' when the process that claims to be running is gone or long silent."""
    state = status.get("state", "unknown")
    if state == "running":
        silent = time.time() - status.get("updated", 0) > SILENCE
        if silent or not _alive(status):
            return "interrupted (the same command goes on)"
    return state


def _alive(status: dict[str, Any]) -> bool:
    if status.get("host") not in (None, os.uname().nodename) or "pid" not in status:
        return True
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _line(run: Run) -> str:
    status = run.status()
    nodes = status.get("nodes", {}).values()
    done = sum(n.get("done", 0) + n.get("hits", 0) for n in nodes)
    total = sum(n.get("shards", 0) for n in nodes)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.get("updated", 0)))
    return f"{run.name:<44} {state_of(status):<12} {done}/{total} shards  {when}"


def _describe(run: Run) -> str:
    status = run.status()
    lines = [_line(run), ""]
    for name, n in status.get("nodes", {}).items():
        text = f"  {name:<28} {n['done'] + n['hits']}/{n['shards']} shards"
        if n.get("images_per_second"):
            text += f"  {n['images_per_second']:.1f} images/s"
        if n.get("quarantined"):
            text += f"  {n['quarantined']} quarantined"
        lines.append(text)
    if status.get("error"):
        lines += ["", status["error"]]
    return "\n".join(lines)

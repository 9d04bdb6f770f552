"""How far a run is, from its status file: whether what calls itself running still runs, what is done, what
is left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

from diffadapt.run.heartbeat import SILENCE


def state_of(status: dict[str, Any]) -> str:
    """The recorded state; 'interrupted' when the process that claims to be running is gone or long silent."""
    state = status.get("state", "unknown")
    if state == "running":
        silent = time.time() - status.get("updated", 0) > SILENCE
        if silent or not _alive(status):
            return "interrupted (the same command goes on)"
    return state


def done_of(status: Mapping[str, Any]) -> tuple[int, int]:
    """(what is there, what there is to be): shards of a run, trials and shared shards of a sweep."""
    nodes = status.get("nodes", {}).values()
    done = sum(n.get("done", 0) + n.get("hits", 0) for n in nodes)
    return done, sum(n.get("shards", 0) for n in nodes)


def seconds_left(node: Mapping[str, Any]) -> float | None:
    """Seconds that a stage under way will take, at the rate it had so far; None where that is not known."""
    left = node.get("seconds_left")
    return max(0.0, float(left)) if isinstance(left, (int, float)) and math.isfinite(left) else None


def _alive(status: Mapping[str, Any]) -> bool:
    if status.get("host") not in (None, os.uname().nodename) or "pid" not in status:
        return True
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

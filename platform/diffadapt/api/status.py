"""Whether what calls itself running still runs."""

from __future__ import annotations

import os
import time
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

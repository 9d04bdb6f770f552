"""A fresh interpreter on a socket of its own: processes that a run starts, from wherever it was started (a
script without a guard, a notebook)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any


def start(module: str, variables: Mapping[str, str], **options: Any) -> tuple[subprocess.Popen, Connection]:
    """``python -m <module> <file descriptor>`` with this process's import path, and the connection to it;
    ``options`` are Popen's."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                **variables,
            },
            **options,
        )
    return process, Connection(ours.detach())

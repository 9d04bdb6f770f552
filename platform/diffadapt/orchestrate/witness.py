"""Says what happened when Ray dies under a run, and ends the run where Ray would leave it waiting.

Without its raylet or GCS a run can do nothing more, not even disconnect: Ray's native code ends its process
after seconds or a minute, without an exception, a handler or a word.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from pathlib import Path

KEPT = "Everything finished is kept; the same command goes on from here."
LOOK_SECONDS = 10.0
MISSES = 2
"""Looks in a row at which the GCS of a joined cluster does not answer before that is said."""
CONNECT_SECONDS = 5.0


class Witness:
    """A thread that watches one connection to Ray until :meth:`dismiss`.

    ``raylet`` is the process id of this machine's raylet, ``gcs`` that of the GCS where Ray is ours, and
    ``address`` (host:port) where the GCS of a cluster that was joined answers. Processes are watched where
    the system lets them be waited for (Linux).
    """

    def __init__(self, raylet: int | None, gcs: int | None, address: str = ""):
        self._address = address
        self._names: dict[int, str] = {}
        for name, pid in (("raylet", raylet), ("gcs_server", gcs)):
            if pid is not None and hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # it has just ended, and Ray says so
                    self._names[os.pidfd_open(pid)] = name
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def dismiss(self) -> None:
        """Nothing that ends from now on is worth a word."""
        if self._thread.is_alive():
            os.write(self._stop, b".")
        self._thread.join()
        for fd in (self._stop, self._stopped, *self._names):
            with contextlib.suppress(OSError):  # dismissed before
                os.close(fd)

    def _watch(self) -> None:
        poll, misses = select.poll(), 0
        for fd in (self._stopped, *self._names):
            poll.register(fd, select.POLLIN)
        while not (ready := {fd for fd, _ in poll.poll(LOOK_SECONDS * 1000 if self._address else None)}):
            misses = 0 if _answers(self._address) else misses + 1
            if misses == MISSES:
                _say(
                    f"The control process (GCS) of the Ray cluster at {self._address} does not answer; Ray"
                    f" ends the run when it stays away for about a minute. {KEPT}"
                )
        if self._stopped not in ready:
            end_run(*(self._names[fd] for fd in ready))


def end_run(*names: str) -> None:
    """End this process, which waits for processes of Ray that are gone, with exit status 1 and a sentence."""
    what = {"raylet": "process on this machine (raylet)", "gcs_server": "control process (gcs_server)"}
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    _say(
        f"Ray's {' and its '.join(what[name] for name in sorted(names))} was ended by something else, such as"
        f" a lack of memory, and the run with it. {KEPT}"
    )
    os._exit(1)


def raylet_of(socket_name: str) -> int | None:
    """The process id of the raylet of this machine that listens at ``socket_name``; None if it cannot be
    found."""
    wanted = f"--raylet_socket_name={socket_name}".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted in file.read_bytes().split(b"\0"):
                return int(file.parent.name)
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())

"""Says what happened when Ray dies under a run: Ray's native code then ends the run's own process on the
spot, without an exception or a word.

:class:`Witness` starts this file as a small process of its own, which waits on the driver, on the raylet of
this machine and, where Ray is the run's own, on its GCS. It takes part in no Ctrl-C, and ends with the
driver.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

KEPT = "Everything finished is kept; the same command goes on from here."
CONNECT_SECONDS = 5.0


class Witness:
    """Watches one connection to Ray until :meth:`dismiss`; does nothing where processes cannot be waited for
    (other systems than Linux).

    ``raylet`` is the process id of this machine's raylet, ``gcs`` that of the GCS where it is ours (its
    death then ends everything), and ``address`` (host:port) where the GCS answers.
    """

    def __init__(self, raylet: int | None, gcs: int | None, address: str):
        self._process: subprocess.Popen | None = None
        self._pipe = -1
        if raylet is None or not hasattr(os, "pidfd_open"):
            return
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            ends = os.pipe()
            fds = [ends[0]]
            stack.callback(lambda: [os.close(fd) for fd in fds])
            self._pipe = ends[1]
            fds += [os.pidfd_open(pid) for pid in (raylet, gcs) if pid is not None]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, address, *map(str, fds)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=fds, start_new_session=True,
            )  # fmt: skip

    def dismiss(self) -> None:
        """Nothing that ends from now on is worth a word."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                os.write(self._pipe, b".")
            os.close(self._pipe)
            self._pipe = -1
        if self._process is not None:
            self._process.wait()
            self._process = None


def raylet_of(socket_name: str) -> int | None:
    """The process id of the raylet of this machine that listens at ``socket_name``; None if it cannot be
    found."""
    wanted = f"--raylet_socket_name={socket_name}".encode()
    for entry in _processes():
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                return int(entry.name)
    return None


def _processes() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (p for p in Path("/proc").iterdir() if p.name.isdigit())


def watch(address: str, driver: int, raylet: int, gcs: int | None = None) -> str:
    """Wait on descriptors: the pipe that the driver holds, and processes of Ray. Returns what there is to
    say, or an empty string when the driver is done, or ended for a reason of its own."""
    poll = select.poll()
    for fd in (driver, raylet, *([] if gcs is None else [gcs])):
        poll.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    if driver in ready and os.read(driver, 1):
        return ""
    if gcs in ready:
        with contextlib.suppress(
            OSError
        ):  # what waits for it would wait a minute, and then end without a word
            signal.pidfd_send_signal(raylet, signal.SIGKILL)
        return f"Ray's control process (gcs_server) was ended by something else, and the run with it. {KEPT}"
    if raylet in ready:
        return (
            "Ray's process on this machine (raylet) was ended by something else (the machine may be out of"
            f" memory), and the run with it. {KEPT}"
        )
    if gcs is None and not _answers(address):
        return (
            f"The control process (GCS) of the Ray cluster at {address} does not answer any more, and Ray"
            f" ended the run: start the cluster again. {KEPT}"
        )
    return ""


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    said = watch(sys.argv[1], *map(int, sys.argv[2:]))
    if said:
        with contextlib.suppress(OSError):
            os.write(2, f"\n{said}\n".encode())

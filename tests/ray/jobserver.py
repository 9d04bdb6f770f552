"""A cluster of one machine with its job server, as `ray start --head` makes it from a shell that knows
nothing of our environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fault.processes import TAG, tagged, wait_for

RAY = str(Path(sys.executable).with_name("ray"))
PLAIN_PATH = os.pathsep.join(
    p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != Path(sys.executable).parent
)


@dataclass(frozen=True)
class Head:
    """``address`` of the job server, ``token`` that it asks for, ``environment`` of a shell on the same
    machine."""

    address: str
    token: str
    environment: dict[str, str]


@contextmanager
def head(folder: Path) -> Iterator[Head]:
    """Start a head with token authentication, and end it with all that it started."""
    home = folder / "home"
    home.mkdir()
    environment = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV", "DIFFADAPT_"))
    }
    environment |= {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": PLAIN_PATH,
        TAG: folder.name,
    }
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    port, dashboard = _free_port(), _free_port()
    process = subprocess.Popen(
        [
            RAY,
            "start",
            "--head",
            "--block",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            "--num-cpus=4",
            "--object-store-memory=100000000",
            f"--ray-client-server-port={_free_port()}",
            f"--dashboard-agent-listen-port={_free_port()}",
        ],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _answers(dashboard), 90)
        yield Head(
            f"http://127.0.0.1:{dashboard}", (home / ".ray" / "auth_token").read_text().strip(), environment
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        wait_for(lambda: not tagged(folder.name), 5, complain=False)
        for pid in tagged(folder.name):
            os.kill(pid, signal.SIGKILL)


def plain_submit(
    cluster: Head, root: Path, words: list[str], env: dict[str, str] | None = None, timeout: float = 400.0
) -> subprocess.CompletedProcess:
    """`ray job submit` as cluster/README.md gives it, in the repository's root."""
    for _ in range(10):
        done = subprocess.run(
            [
                RAY,
                "job",
                "submit",
                "--address",
                cluster.address,
                "--working-dir",
                ".",
                "--runtime-env",
                "cluster/job.yaml",
                "--",
                *words,
            ],
            env=cluster.environment | (env or {}),
            cwd=root,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        said = done.stdout + done.stderr
        if (
            "No available agent" not in said and "The actor never ran" not in said
        ):  # a head that is still starting says the one, an overloaded one the other
            break
        time.sleep(3)
    return done


def _free_port() -> int:
    """A free port outside the range that Ray hands to its workers (10002 to 19999)."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if not 10002 <= port <= 19999:
            return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

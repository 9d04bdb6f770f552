"""Starts drivers and finds whatever they leave behind: every process of a test carries its tag in the
environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

if not Path("/proc/self/environ").exists():
    pytest.skip("finding left-over processes needs /proc", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Idle helpers of a Ray node: they notice the node's death by themselves, within a minute."""
TAG = "DIFFADAPT_TEST_TAG"


class Driver:
    """A driver process, its output in files, and all its descendants."""

    def __init__(
        self, options: dict, output: Path, script: str = "tests/fault/driver.py", prefix: Sequence[str] = ()
    ):
        self.tag = uuid.uuid4().hex
        self.output = output
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment.update(
            {
                TAG: self.tag,
                "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            }
        )
        with open(output, "ab") as sink:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(ROOT / script), json.dumps(options)],
                cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = 180.0) -> int:
        return self.process.wait(timeout=seconds)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def survivors(self) -> list[int]:
        """Ids of living processes with this driver's tag."""
        return tagged(self.tag)

    def gone_within(self, seconds: float, but: tuple[str, ...] = ()) -> list[str]:
        """Command lines of what still lives after ``seconds``, ``but`` aside; an empty list as soon as
        nothing does."""

        def left() -> list[str]:
            return [c for c in map(_command, self.survivors()) if c and not c.startswith(but or "\0")]

        wait_for(lambda: not left(), seconds, complain=False)
        return left()

    def clean(self) -> None:
        for pid in self.survivors():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(timeout=10)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *error: object) -> None:
        self.clean()


def tagged(tag: str) -> list[int]:
    """Ids of living processes that carry ``tag``."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _tag(p) == tag]


def wait_for(condition: Callable[[], bool], seconds: float, complain: bool = True) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            assert not complain, f"waited {seconds} s in vain"
            return
        time.sleep(0.02)


def _tag(entry: Path) -> str | None:
    """The tag in a process's environment; None for a zombie, another user's, or one that has just ended."""
    try:
        variables = (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((v.decode().partition("=")[2] for v in variables if v.startswith(TAG.encode() + b"=")), None)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()[:200]
    except OSError:
        return ""

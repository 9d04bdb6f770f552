"""`ray start --head` and `ray job submit` as cluster/README.md gives them: the code travels with the job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffadapt.core.store import Store
from tests.fault.processes import ROOT, TAG, tagged, wait_for

RAY = str(Path(sys.executable).with_name("ray"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_submitted_job_makes_its_shards_from_the_code_that_it_brought(tmp_path: Path) -> None:
    port, dashboard = _free_port(), _free_port()
    (tmp_path / "home").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
    environment |= {
        "HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", TAG: tmp_path.name,
    }  # fmt: skip
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4",
         "--object-store-memory=100000000", f"--ray-client-server-port={_free_port()}",
         f"--dashboard-agent-listen-port={_free_port()}"],
        env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: _answers(dashboard), 90)
        for _ in range(10):
            done = subprocess.run(
                [RAY, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--working-dir", ".",
                 "--runtime-env", "cluster/job.yaml", "--",
                 "python", "-m", "diffadapt.cli", "run", "quickstart", "--root", str(tmp_path / "root"),
                 "--methods", "source", "tent", "--controls", "batchnorm", "--target.corruptions", "gaussian_noise",
                 "--target.data.limit-per-class", "2", "--classifier-fit.epochs", "1", "--figures", "False"],
                env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400,
            )  # fmt: skip
            if "No available agent" not in done.stderr:  # the head says so while it is still starting
                break
            time.sleep(3)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "succeeded" in done.stdout + done.stderr
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        wait_for(lambda: not tagged(tmp_path.name), 30, complain=False)
        for pid in tagged(tmp_path.name):
            os.kill(pid, signal.SIGKILL)
    names = Store(str(tmp_path / "root" / "runs")).list("")
    (run,) = [n for n in names if n.startswith("quickstart-")]
    assert (tmp_path / "root" / "runs" / run / "scores.parquet").exists()

"""cluster/slurm.sh on this machine: srun, scontrol and the nodes are stand-ins, the Ray processes and the run
are real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections import Counter
from pathlib import Path

import pytest

from diffadapt.core.store import Store
from tests.fault.processes import RAY_AGENTS, ROOT, TAG, _command, tagged, wait_for
from tests.ray.toy import lines

SHARDS = 24
SHIMS = {
    # One machine is every node; a step is the process itself, so that a signal to srun reaches it as Slurm
    # would pass it on.
    "srun": 'while [[ ${1:-} == -* ]]; do shift; done\nexec "$@"\n',
    "scontrol": 'if [[ $1 == show ]]; then tr , "\\n" <<< "$3"; else echo "$@" >> "$SHIM_LOG"; fi\n',
}
RECIPE = """
from dataclasses import dataclass

from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.run.runner import ExecutionConfig
from tests.ray.toy import Source


@dataclass(frozen=True)
class Toy:
    source: Source = Source()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig()

    def pipeline(self):
        return Pipeline((Node("source", self.source),))
"""


@pytest.mark.slow
def test_a_job_goes_into_the_queue_again_before_its_time_is_up_and_then_makes_the_rest(
    tmp_path: Path,
) -> None:
    for name, text in SHIMS.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text("#!/bin/bash\n" + text)
        script.chmod(0o755)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "slurm_toy.py").write_text(textwrap.dedent(RECIPE))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "toy.py").write_text(
        'from slurm_toy import Toy\n\n\ndef recipe() -> Toy:\n    """A toy."""\n    return Toy()\n'
    )
    side, said, job = tmp_path / "side.log", tmp_path / "scontrol.log", f"t{uuid.uuid4().hex[:8]}"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "DIFFADAPT_", "PYTHON"))
    }
    environment |= {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SHIM_LOG": str(said),
        TAG: job,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'modules'}",
        "DIFFADAPT_PIPELINES": str(tmp_path / "recipes"),
        "DIFFADAPT_VENV": str(Path(sys.executable).parents[1]),
        "DIFFADAPT_HEAD_IP": "127.0.0.1",
        "DIFFADAPT_RAY_OPTIONS": "--object-store-memory=100000000",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "node1,node2,node3",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
    }
    line = [
        "bash",
        str(ROOT / "cluster" / "slurm.sh"),
        "run",
        "toy",
        "--root",
        str(tmp_path / "root"),
        "--source.shards",
        str(SHARDS),
        "--source.sleep",
        "2",
        "--source.side-log",
        str(side),
        "--execution.runner",
        "ray",
        "--execution.actors",
        "3",
    ]

    def left() -> list[str]:
        return [c for c in map(_command, tagged(job)) if c and not c.startswith(RAY_AGENTS)]

    def start(log: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT
        )

    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    try:
        batch = start(first)
        wait_for(lambda: len(lines(side)) >= 8 or batch.poll() is not None, 240, complain=False)
        assert batch.poll() is None and "Ray runs on 3 nodes, head node1" in first.read_text(), (
            first.read_text()
        )
        batch.send_signal(signal.SIGUSR1)
        assert batch.wait(timeout=120) == 0, first.read_text()
        assert said.read_text().split() == ["requeue", job] and "into the queue again" in first.read_text()
        wait_for(lambda: not left(), 60, complain=False)
        assert left() == [] and not Path(f"/tmp/ray-{job}").exists()
        made = {
            p.name.rpartition("-")[0] for p in (tmp_path / "root" / "store" / "toy-source").rglob("*.parquet")
        }
        begun = len(lines(side))
        assert 0 < len(made) < SHARDS

        batch = start(second)
        assert batch.wait(timeout=300) == 0, second.read_text()
        again = {key for _, key, *_ in lines(side)[begun:]}
        assert not again & made and len(again) == SHARDS - len(made), "what was finished is not made again"
        assert max(Counter(key for _, key, *_ in lines(side)).values()) <= 2
        assert said.read_text().count("requeue") == 1
        wait_for(lambda: not left(), 60, complain=False)
        assert left() == []
    finally:
        for pid in tagged(job):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)
    assert any(n.startswith("toy-") for n in Store(str(tmp_path / "root" / "runs")).list(""))

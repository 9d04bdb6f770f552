"""Jobs over the real job server: `diffadapt submit` and plain `ray job submit`, on the interpreter that Ray
runs on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from tests.fault.processes import ROOT, wait_for
from tests.ray.jobserver import Head, head, plain_submit

TYPE = '''
"""A recipe type without torch: numbers, one a shard."""

import os, sys, time
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.config import execution
from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.stage import Stage
from diffadapt.run.runner import ExecutionConfig


@dataclass(frozen=True)
class Numbers(Stage):
    kind: ClassVar[str] = "job-numbers"
    shards: int = 3
    log: str = execution("")
    fail: bool = execution(False)

    def plan(self, inputs):
        return [Shard(f"s{i:03d}", {"index": i}, (), 1) for i in range(self.shards)]

    def open(self, context):
        return Worker(self)


class Worker:
    def __init__(self, stage):
        self.stage = stage

    def run(self, shard, inputs):
        if self.stage.fail:
            raise DataError("This recipe was asked to fail.")
        with open(self.stage.log, "a") as log:
            log.write(f"{shard.key} {sys.prefix} {os.environ.get('SHOWN', '-')}\\n")
        while shard.key == "s002" and os.path.exists(self.stage.log + ".hold"):
            time.sleep(0.1)
        return Rows(pa.table({"key": [shard.key], "value": [float(shard.params["index"])]}))


@dataclass(frozen=True)
class Toy:
    numbers: Numbers = Numbers()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig(runner="local", device="cpu")

    def pipeline(self):
        return Pipeline((Node("numbers", self.numbers),))
'''
RECIPE = '''
"""Numbers."""

import os, sys

sys.path.insert(0, os.path.dirname(__file__))
from _toy import Toy


def recipe():
    """Numbers."""
    return Toy()
'''


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Head]:
    with head(tmp_path_factory.mktemp("head")) as started:
        yield started


class Shell:
    """A shell beside the cluster: in another folder, with recipes of its own, without our environment on its
    PATH."""

    def __init__(self, cluster: Head, folder: Path):
        self.cluster, self.folder = cluster, folder
        (folder / "my recipes").mkdir()
        (folder / "my recipes" / "numbers.py").write_text(RECIPE)
        (folder / "my recipes" / "_toy.py").write_text(TYPE)
        self.root, self.log = folder / "a root", folder / "shards.log"
        self.environment = cluster.environment | {
            "DIFFADAPT_PIPELINES": "my recipes",
            "DIFFADAPT_ADDRESS": cluster.address,
            "COLUMNS": "160",
        }
        self.words = ["submit", "numbers", "--root", str(self.root), "--numbers.log", str(self.log)]

    def command(self, *words: str) -> list[str]:
        return [str(Path(sys.executable).with_name("diffadapt")), *words]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment | env,
            capture_output=True,
            text=True,
            timeout=400,
        )

    def shards(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def shell(cluster: Head, tmp_path: Path) -> Shell:
    return Shell(cluster, tmp_path)


def test_a_job_brings_its_code_runs_on_rays_interpreter_and_is_seen_from_any_shell(shell: Shell) -> None:
    done = shell.run(*shell.words, "--submission-id", "first", "--env", "SHOWN", SHOWN="s3cret-value")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [s[0] for s in shell.shards()] == ["s000", "s001", "s002"]
    assert {s[1] for s in shell.shards()} == {sys.prefix} and {s[2] for s in shell.shards()} == {
        "s3cret-value"
    }
    assert (
        "run       numbers-" in done.stdout and "numbers: 3 of 3 shards to make" in done.stdout
    )  # the job's log
    assert "Running entrypoint" not in done.stdout and "job      first succeeded" in done.stderr
    jobs = shell.run("status", "--root", str(shell.root)).stdout
    assert "finished     3/3 shards" in jobs and "first" in jobs and "succeeded" in jobs
    everything = (
        "".join(p.read_text(errors="replace") for p in shell.root.rglob("*") if p.is_file())
        + done.stdout
        + done.stderr
        + jobs
    )
    assert "s3cret-value" not in everything and shell.cluster.token not in everything


@pytest.mark.slow
def test_a_jobs_runs_and_log_are_at_hand_and_its_name_is_given_once(shell: Shell) -> None:
    done = shell.run(*shell.words, "--submission-id", "second-1")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = shell.run("status", "second", "--root", str(shell.folder / "elsewhere")).stdout
    assert "job second-1" in shown and "numbers                      3/3 shards" in shown
    assert shell.run("job", "logs", "second").stdout == done.stdout
    assert "had ended before" in shell.run("job", "stop", "second-1").stdout
    again = shell.run(*shell.words, "--submission-id", "second-1")
    assert (
        again.returncode == 2
        and "There is a job 'second-1' on this cluster already" in again.stderr
        and "such as second-2" in again.stderr
    )


@pytest.mark.slow
def test_stop_keeps_what_is_finished_and_the_same_line_goes_on(shell: Shell) -> None:
    words = [*shell.words, "--numbers.shards", "4"]
    hold = Path(f"{shell.log}.hold")
    hold.touch()  # the third shard waits
    sent = shell.run(*words, "--no-wait")
    name = sent.stdout.strip()
    assert (
        sent.returncode == 0
        and name.startswith("numbers-")
        and f"diffadapt job logs {name} --follow --address" in sent.stderr
    )
    wait_for(lambda: len(shell.shards()) == 3, 60)

    follower = subprocess.Popen(
        shell.command(*words),
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = follower.stdout.readline()
    assert (
        first == "numbers: 4 of 4 shards to make, on Ray (a cluster is named)\n"
    )  # the log from its beginning, of the job that runs the line already
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=30)
    assert (
        follower.returncode == 130
        and f"{name} runs this line already" in said
        and f"The job {name} goes on without this terminal" in said
    )

    stopped = shell.run("job", "stop", name)
    assert stopped.returncode == 0 and f"{name}: stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    (run,) = Root(str(shell.root)).names()
    assert (
        json.loads((shell.root / "runs" / run / "status.json").read_text())["state"] == "interrupted"
    )  # the driver had the time to say so
    assert shell.run("job", "logs", name, "--follow").returncode == 130

    hold.unlink()
    done = shell.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [s[0] for s in shell.shards()] == [
        "s000",
        "s001",
        "s002",
        "s002",
        "s003",
    ]  # the one that was under way is begun again


@pytest.mark.slow
def test_a_job_that_fails_gives_its_exit_status_and_sentence(shell: Shell) -> None:
    done = shell.run(*shell.words, "--numbers.fail", "True", "--numbers.shards", "1")
    assert done.returncode == 2
    assert "This recipe was asked to fail" in done.stdout and "failed with exit status 2" in done.stderr


@pytest.mark.slow
def test_tokens_and_addresses_that_do_not_fit_are_one_sentence_within_seconds(shell: Shell) -> None:
    (shell.folder / "nobody").mkdir()
    for env, said in (
        ({"HOME": str(shell.folder / "nobody")}, "asks for a token and none was found"),
        ({"RAY_AUTH_TOKEN": "deadbeef"}, "does not accept this token"),
        ({"DIFFADAPT_ADDRESS": "http://127.0.0.1:9"}, "No job server answers at http://127.0.0.1:9"),
    ):
        started = time.monotonic()
        done = shell.run("job", "ls", **env)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, (
            done.stderr
        )
        assert "deadbeef" not in done.stderr and time.monotonic() - started < 30
    # A token that is at hand is shown to a server that asks for one, without RAY_AUTH_MODE.
    environment = {k: v for k, v in shell.environment.items() if k != "RAY_AUTH_MODE"}
    done = subprocess.run(
        shell.command("job", "ls"),
        cwd=shell.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_plain_ray_job_submit_makes_the_same_run(shell: Shell) -> None:
    words = [
        "quickstart",
        "--methods",
        "source",
        "tent",
        "--controls",
        "batchnorm",
        "--target.corruptions",
        "gaussian_noise",
        "--target.data.limit-per-class",
        "2",
        "--classifier-fit.epochs",
        "1",
        "--figures",
        "False",
    ]
    done = plain_submit(
        shell.cluster,
        ROOT,
        ["python", "-m", "diffadapt.cli", "run", *words, "--root", str(shell.folder / "plain")],
    )
    assert done.returncode == 0 and "succeeded" in done.stdout + done.stderr, done.stdout + done.stderr
    ours = shell.run("submit", *words, "--root", str(shell.folder / "ours"))
    assert ours.returncode == 0, ours.stdout + ours.stderr
    names = [
        [n for n in Store(str(shell.folder / place / "runs")).list("") if n.startswith("quickstart-")]
        for place in ("plain", "ours")
    ]
    assert names[0] == names[1] and len(names[0]) == 1
    assert (shell.folder / "ours" / "runs" / names[1][0] / "scores.parquet").read_bytes() == (
        shell.folder / "plain" / "runs" / names[0][0] / "scores.parquet"
    ).read_bytes()

"""Ray's own start on a machine that is too busy for its fixed time; what is said of processes that are
gone."""

from __future__ import annotations

import importlib
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from diffadapt.core.errors import ResourceError
from diffadapt.orchestrate import connection, witness
from diffadapt.run.runner import ExecutionConfig

SLOW = Exception(
    "The current node timed out during startup. This could happen because some of the raylet failed to"
    " startup or the GCS has become overloaded."
)


class Start:
    """Stands for ray.init: raises what it is given, call by call; a node that it leaves is found by its
    frame."""

    def __init__(self, *errors: Exception | None):
        self.errors, self.ended = list(errors), []

    def init(self, **_: Any) -> None:
        if error := self.errors.pop(0):
            Half(self.ended).start(error)


class Half:
    def __init__(self, ended: list):
        self.ended = ended

    def start(self, error: Exception) -> None:
        raise error

    def kill_all_processes(self, *_: Any, **__: Any) -> None:
        self.ended.append(self)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def go(*errors: Exception | None) -> tuple[Start, connection.Connection]:
        start, made = Start(*errors), connection.Connection(ExecutionConfig(device="cpu"))
        monkeypatch.setattr(connection.ray, "init", start.init)
        monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        try:
            made.open()
        finally:
            made.close()
        return start, made

    return go


def test_a_start_that_was_too_slow_is_tried_again(opened) -> None:
    start, made = opened(SLOW, None)
    assert not start.errors and made.own and len(start.ended) == 1, "what the first one left is ended"


def test_a_second_one_is_said(opened) -> None:
    with pytest.raises(ResourceError, match="too slow to come up, twice .*less busy") as caught:
        opened(SLOW, SLOW)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_tried_again(opened) -> None:
    with pytest.raises(ResourceError, match="could not be started on this machine: no such option"):
        opened(ValueError("no such option"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """What a witness says, and whether it ends the run; it looks at a cluster's GCS all the time."""
    texts, ended = [], threading.Event()
    monkeypatch.setattr(witness, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(witness, "_say", texts.append)
    monkeypatch.setattr(witness.os, "_exit", lambda status: ended.set())
    return texts, ended


def test_a_gcs_that_does_not_answer_is_said_once_an_outage(said) -> None:
    texts, ended = said
    with subprocess.Popen(["sleep", "60"]) as raylet, socket.socket() as gcs:
        gcs.bind(("127.0.0.1", 0))
        watching = witness.Witness(raylet.pid, None, f"127.0.0.1:{gcs.getsockname()[1]}")
        until = threading.Event()
        while not texts and not until.wait(0.02):
            pass
        gcs.listen(100)  # it came back
        assert not ended.wait(0.5)
        watching.dismiss()
        raylet.kill()
    assert len(texts) == 1 and "(GCS)" in texts[0] and "the same command goes on" in texts[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_gone_ends_the_run(said, which: int) -> None:
    texts, ended = said
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    watching = witness.Witness(processes[0].pid, processes[1].pid)
    processes[which].kill()
    assert ended.wait(60) and ("(raylet)", "(gcs_server)")[which] in texts[0]
    watching.dismiss()
    for process in processes:
        process.kill()
        process.wait()


def test_what_ends_after_the_farewell_is_not_worth_a_word(said) -> None:
    texts, ended = said
    with subprocess.Popen(["sleep", "60"]) as process:
        watching = witness.Witness(process.pid, None)
        watching.dismiss()
        process.kill()
    watching.dismiss()
    assert not texts and not ended.is_set()


def test_workers_of_a_cluster_from_elsewhere_go_to_the_drivers_folder(monkeypatch, tmp_path) -> None:
    """Relative paths of data, weights, prompts and own files would mean those of the folder in which the
    cluster was started."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(connection.ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(connection, "_demand_address", lambda address: None)
    monkeypatch.setattr(connection, "_witness", lambda own: None)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    made = connection.Connection(ExecutionConfig(device="cpu", address="127.0.0.1:1"))
    made.open()
    made.close()
    environment = given["runtime_env"]
    module, _, function = environment["worker_process_setup_hook"].rpartition(".")
    monkeypatch.chdir(tmp_path)  # a worker, which the cluster starts in its own folder
    for name, value in environment["env_vars"].items():
        monkeypatch.setenv(name, value)
    getattr(importlib.import_module(module), function)()
    assert Path.cwd() == tmp_path / "work"
    monkeypatch.setenv(connection.PLACE, str(tmp_path / "not on this machine"))
    connection.settle()
    assert Path.cwd() == tmp_path / "work"


def test_a_job_with_files_of_its_own_keeps_their_folder(monkeypatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(connection.ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(connection, "_demand_address", lambda address: None)
    monkeypatch.setattr(connection, "_witness", lambda own: None)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://x.zip"}}')
    made = connection.Connection(ExecutionConfig(device="cpu", address="127.0.0.1:1"))
    made.open()
    made.close()
    assert "worker_process_setup_hook" not in given["runtime_env"]
    assert connection.PLACE not in given["runtime_env"]["env_vars"]

"""Ray's own processes die under a run: it ends at once, says what died, and the same command goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fault.nodes import Nodes
from tests.fault.processes import RAY_AGENTS, Driver, tagged, wait_for
from tests.ray.toy import lines

SHARDS = 6


def process(tag: str, name: str) -> int:
    """The id of the one process of ``tag`` that runs Ray's program ``name``."""
    (pid,) = [p for p in tagged(tag) if os.path.basename(_program(p)) == name]
    return pid


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def options(tmp_path: Path, **more: object) -> dict:
    return {
        "root": str(tmp_path / "store"), "log": str(tmp_path / "log"), "shards": SHARDS, "sleep": 0.2, **more,
    }  # fmt: skip


def begin(tmp_path: Path, driver: Driver) -> None:
    wait_for(lambda: len(lines(tmp_path / "log")) >= 2 or driver.process.poll() is not None, 120)


def finish(tmp_path: Path, given: dict) -> None:
    with Driver(given, tmp_path / "again") as driver:
        assert driver.wait() == 0, (tmp_path / "again").read_text()
        assert driver.gone_within(20) == []
    assert "Ray" not in (tmp_path / "again").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [("raylet", "(raylet)"), pytest.param("gcs_server", "(gcs_server)", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("fit", [0, pytest.param(200, marks=pytest.mark.slow)])
def test_what_died_is_said_and_the_same_command_goes_on(
    tmp_path: Path, name: str, said: str, fit: int
) -> None:
    given = options(tmp_path, fit=fit)
    with Driver(given, tmp_path / "out") as driver:
        begin(tmp_path, driver)
        os.kill(process(driver.tag, name), signal.SIGKILL)
        assert driver.wait(40) not in (0, 130)
        assert driver.gone_within(20, but=RAY_AGENTS) == []
    text = (tmp_path / "out").read_text()
    assert said in text and "the same command goes on" in text, text
    assert text.count("the same command goes on") == 1 and "Traceback" not in text and "***" not in text, text
    finish(tmp_path, {**given, "fit": 0} if not fit else given)


@pytest.mark.slow
def test_a_killed_driver_is_not_blamed_on_ray(tmp_path: Path) -> None:
    with Driver(options(tmp_path), tmp_path / "out") as driver:
        begin(tmp_path, driver)
        driver.send(signal.SIGKILL)
        driver.wait()
        assert driver.gone_within(20, but=RAY_AGENTS) == []
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.slow
def test_the_raylet_of_a_cluster_that_was_joined(tmp_path: Path) -> None:
    with Nodes(tmp_path, namespaces=False) as nodes:
        nodes.start(head_cpus=2)
        given = options(tmp_path, execution={"address": nodes.address})
        with Driver(given, tmp_path / "out") as driver:
            begin(tmp_path, driver)
            os.kill(process(nodes.head.tag, "raylet"), signal.SIGKILL)
            assert driver.wait(40) not in (0, 130)
            assert driver.gone_within(20) == []
    text = (tmp_path / "out").read_text()
    assert "(raylet)" in text and "the same command goes on" in text and "Traceback" not in text, text

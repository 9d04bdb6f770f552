"""Drivers that are killed or interrupted at any moment: no orphans, and the next run finishes with the same
bytes."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from tests.fault.processes import RAY_AGENTS, Driver, wait_for
from tests.ray.harness import contents, run
from tests.ray.toy import Child, Regress, Source, fit_pipeline, lines, map_pipeline

ACTORS = 2


def _undisturbed(pipeline, root: Path) -> dict[str, str]:
    runner = LocalRunner(ExecutionConfig(device="cpu"))
    runner.prepare()
    assert not run(pipeline, root, runner).failed()
    return contents(root)


def _kill_and_finish(tmp_path: Path, shards: int, moments: list[int]) -> None:
    """SIGKILL the driver when the side log has so many lines, once for each moment; then let it finish."""
    log = tmp_path / "log"
    options = {"root": str(tmp_path / "store"), "log": str(log), "shards": shards, "sleep": 0.2}
    for moment in moments:
        target = len(lines(log)) + moment
        with Driver(options, tmp_path / "out") as driver:
            wait_for(
                lambda target=target, driver=driver: (
                    len(lines(log)) >= target or driver.process.poll() is not None
                ),
                120,
            )
            driver.send(signal.SIGKILL)
            driver.wait()
            assert driver.gone_within(20, but=RAY_AGENTS) == []
    with Driver(options, tmp_path / "out") as driver:
        assert driver.wait() == 0, (tmp_path / "out").read_text()
        assert driver.gone_within(20) == []
    quiet = map_pipeline(Source(shards=shards), Child())
    assert contents(tmp_path / "store") == _undisturbed(quiet, tmp_path / "local")
    begun = Counter((stage, key) for stage, key, *_ in lines(log))
    assert len(begun) == 2 * shards
    # Each kill costs at most the one shard that each actor had open.
    assert sum(begun.values()) <= 2 * shards + ACTORS * len(moments)


def test_a_killed_driver_goes_on_where_it_stopped(tmp_path: Path) -> None:
    _kill_and_finish(tmp_path, shards=8, moments=[random.randint(1, 12)])


@pytest.mark.slow
def test_nothing_at_all_is_left_a_while_after_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = {"root": str(tmp_path / "store"), "log": str(log), "shards": 50, "sleep": 0.5}
    with Driver(options, tmp_path / "out") as driver:
        wait_for(lambda: len(lines(log)) >= 2, 120)
        driver.send(signal.SIGKILL)
        driver.wait()
        assert driver.gone_within(100) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_random_kills(tmp_path: Path) -> None:
    _kill_and_finish(tmp_path, shards=80, moments=[random.randint(0, 10) for _ in range(20)])


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_driver_ends_quickly_and_takes_all_along(tmp_path: Path, number: int) -> None:
    log = tmp_path / "log"
    options = {"root": str(tmp_path / "store"), "log": str(log), "shards": 50, "sleep": 0.5}
    with Driver(options, tmp_path / "out") as driver:
        wait_for(lambda: len(lines(log)) >= 2, 120)
        start = time.monotonic()
        driver.send(number)
        assert driver.wait(30) != 0
        assert driver.gone_within(20) == []
        assert time.monotonic() - start < 30


@pytest.mark.slow
def test_a_fit_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = {"root": str(tmp_path / "store"), "log": str(log), "fit": 40, "sleep": 0.1}
    with Driver(options, tmp_path / "out") as driver:
        wait_for(lambda: len(lines(log)) >= 17, 120)
        driver.send(signal.SIGKILL)
        driver.wait()
        assert driver.gone_within(20, but=RAY_AGENTS) == []
    # Any runner may take over.
    pipeline = fit_pipeline(Source(shards=2), Regress(steps=40, side_log=str(log)))
    resumed = _undisturbed(pipeline, tmp_path / "store")
    assert [int(words[2]) for words in lines(log) if words[0] == "resumed"][0] >= 15
    assert resumed == _undisturbed(pipeline, tmp_path / "local")

"""Drivers of a sweep on Ray Tune that are killed or interrupted half-way: the same command ends in the same
table, nothing finished is done again."""

from __future__ import annotations

import io
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffadapt.core.runs import Root
from diffadapt.sweeps.folder import Sweep, sweeps
from tests.fault.processes import RAY_AGENTS, Driver, wait_for
from tests.ray.toy import lines

SCRIPT = "tests/fault/sweep_driver.py"


def _sweep(root: Path) -> Sweep:
    base = Root(str(root))
    return Sweep(base, sweeps(base)[0])


def _table(root: Path) -> list[dict]:
    rows = pq.read_table(io.BytesIO(_sweep(root).read("sweep.parquet"))).to_pylist()
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "device_hours", "made", "found")}
        for row in rows
    ]


def _options(folder: Path, sleep: float = 0.3) -> dict:
    folder.mkdir(exist_ok=True)
    return {"root": str(folder / "root"), "folder": str(folder), "sleep": sleep}


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 4])
def test_a_killed_sweep_ends_in_the_same_table(tmp_path: Path, finished: int) -> None:
    whole, parts = _options(tmp_path / "whole", 0.0), _options(tmp_path / "parts")
    with Driver(whole, tmp_path / "whole-out", SCRIPT) as driver:
        assert driver.wait() == 0, (tmp_path / "whole-out").read_text()
    with Driver(parts, tmp_path / "out", SCRIPT) as driver:
        wait_for(
            lambda: (
                len(list(Path(parts["root"]).glob("sweeps/*/trials/*/result.json"))) >= finished
                or driver.process.poll() is not None
            ),
            120,
        )
        driver.send(signal.SIGKILL)
        driver.wait()
        assert driver.gone_within(20, but=RAY_AGENTS) == []
    kept = {r.id for r in _sweep(Path(parts["root"])).results()}
    before = lines(Path(parts["folder"], "log"))
    assert finished <= len(kept) < 6
    with Driver(parts, tmp_path / "out", SCRIPT) as driver:
        assert driver.wait() == 0, (tmp_path / "out").read_text()
        assert driver.gone_within(20) == []
    assert _table(Path(parts["root"])) == _table(Path(whole["root"]))
    log = lines(Path(parts["folder"], "log"))
    assert Counter(line[0] for line in log)["draw"] == 4, "every picture once"
    redone = [line for line in log[len(before) :] if line[0] == "fit"]
    assert len(redone) <= 6 - len(kept)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_within_seconds_and_takes_all_along(tmp_path: Path, number: int) -> None:
    options = _options(tmp_path / "parts", 1.0)
    with Driver(options, tmp_path / "out", SCRIPT) as driver:
        wait_for(lambda: any(line[0] == "epoch" for line in lines(Path(options["folder"], "log"))), 120)
        start = time.monotonic()
        driver.send(number)
        assert driver.wait(30) == 130 and time.monotonic() - start < 15
        assert driver.gone_within(20) == []
    assert _sweep(Path(options["root"])).status()["state"] == "interrupted"
    assert "Traceback" not in (tmp_path / "out").read_text()

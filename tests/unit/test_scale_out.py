"""How the scale-out benchmark counts; the benchmark itself is run at its smallest size by a slow test."""

from __future__ import annotations

import json

import pytest

from tests.bench import planning
from tests.bench.scale_out import FEW, actors_for, main, steady_share


def test_the_share_is_the_sleep_over_the_time_between_receipts():
    starting = [
        3.0,
        40.0,
    ]  # one actor starts late: nothing counts before it works, nor while the measuring holds up receipts
    stamps = [[s + 10.5 * i for i in range(1, 9)] for s in starting]
    assert steady_share(stamps, 10.0) == pytest.approx(10 / 10.5)
    waiting = [
        stamps[0],
        [*stamps[1][:-1], stamps[1][-1] + 10.5],
    ]  # the last shard had to wait for its bundle
    assert steady_share(waiting, 10.0) < steady_share(stamps, 10.0)
    assert steady_share([[1.0], [2.0]], 10.0) == 0


@pytest.mark.parametrize(
    ("gpus", "gib", "actors"), [(1, 1, 1), (64, 1, 64), (256, 23, FEW), (256, 128, 256), (96, 4, 32)]
)
def test_processes_fit_the_memory_and_stand_for_whole_gpus(gpus, gib, actors):
    assert actors_for(gpus, gib * 2**30) == actors and gpus % actors == 0


def test_planning_prints_every_step(capsys):
    planning.empty(2)
    planning.full(2)
    lines = capsys.readouterr().out.splitlines()
    assert sum("`diffadapt plan` in all" in line and "reached" in line for line in lines) == 2
    assert any("487 shards, 2,000 images" in line for line in lines) and any(
        "30 chains, 1 fits" in line for line in lines
    )


@pytest.mark.slow
def test_two_simulated_gpus(tmp_path, capfd):
    assert (
        main(
            [
                "--gpus",
                "2",
                "--each",
                "5",
                "--seconds",
                "1",
                "--limit",
                "20",
                "--json",
                str(tmp_path / "out.json"),
            ]
        )
        == 0
    )
    two, limit = json.loads((tmp_path / "out.json").read_text())
    assert (two["gpus"], two["processes"], two["shards"]) == (2, 2, 10) and 0.1 < two["share"] < 1.2
    assert limit["shards"] == 20 and limit["cpu_driver"] > 0 and limit["rate"] > 0
    assert "Without sleep" in capfd.readouterr().out

"""Searches on Ray Tune: trials that fail, are lost or lack memory; ASHA; Optuna, and what its trials share."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.orchestrate.tune import TuneFan
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import run_sweep
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.space import Choice, SearchConfig, Space, Uniform
from tests.ray.sweeptoy import LearnConfig, PlainToy, SweepToy, ToyRunner
from tests.ray.toy import lines

CONFIG = ExecutionConfig(device="cpu", actors=2)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for the module; fans join the connection that this process has."""
    runner = RayRunner(CONFIG)
    runner.prepare()
    yield
    runner.close()


class Told:
    """A sweep with what it said, and what its stages noted."""

    def __init__(self, root: Path, space: Space, recipe: Any):
        self.said: list[str] = []
        self.folder = root / "notes"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe = replace(recipe, learn=replace(recipe.learn, folder=str(self.folder)), draw=replace(recipe.draw, side_log=str(self.folder / "log")))
        self.sweep: Sweep = run_sweep(
            "toy", space, {"toy": self.recipe}, {}, Root(str(root)), CONFIG, lambda execution: ToyRunner(), lambda execution: TuneFan(execution, ToyRunner), self.said.append
        )  # fmt: skip
        self.results = {r.values.get("learn.threshold", r.number): r for r in self.sweep.results()}

    def counts(self) -> Counter:
        return Counter(line[0] for line in lines(self.folder / "log"))


def table(sweep: Sweep) -> list[dict]:
    return pq.read_table(io.BytesIO(sweep.read("sweep.parquet"))).to_pylist()


def test_trials_that_fail_are_lost_or_lack_memory_leave_the_others_alone(tmp_path):
    space = Space({"learn.threshold": Choice(0.1, 0.2, 0.3), "learn.lr": Choice(0.5, -1.0)})
    told = Told(tmp_path, space, SweepToy(learn=LearnConfig(die="once", of=0.2, memory=20)))
    results = {(r.values["learn.threshold"], r.values["learn.lr"]): r for r in told.sweep.results()}
    assert {k: r.status for k, r in results.items()} == {(t, lr): "finished" if lr > 0 else "failed" for t in (0.1, 0.2, 0.3) for lr in (0.5, -1.0)}
    assert all("told to fail" in r.error for r in results.values() if r.status == "failed")
    assert all(r.adjusted == {"learn.batch_size": 16} for r in results.values() if r.status == "finished"), "64 and 32 do not fit"
    assert sum(line.startswith("trial ") for line in told.said) == 6
    assert told.counts()["draw"] == 2 and (told.folder / "died").exists()
    assert [row["number"] for row in table(told.sweep)] == list(range(6))
    again = Told(tmp_path, space, SweepToy(learn=LearnConfig(memory=20)))
    assert sum(line.startswith("trial ") for line in again.said) == 3, "those that failed are tried again, the others are not"


def test_asha_stops_poor_trials_between_epochs_and_knows_them_after_a_restart(tmp_path):
    rates = (0.5, 0.6, 0.9, 1.1, 1.2)
    search = SearchConfig(scheduler="asha", reduction=2, concurrent=1)
    told = Told(tmp_path, Space({"learn.lr": Choice(*rates)}, search), SweepToy(learn=LearnConfig(epochs=4)))
    by_rate = {r.values["learn.lr"]: r for r in told.sweep.results()}
    assert by_rate[0.5].status == "finished" and by_rate[0.5].objective_name == "im" and len(by_rate[0.5].epochs) == 4
    stopped = by_rate[1.2]
    assert stopped.status == "stopped" and list(stopped.epochs) == [stopped.objective] and stopped.objective == pytest.approx(0.15)
    assert stopped.device_hours is not None and not stopped.error
    log = [line for line in lines(told.folder / "log") if line[0] == "epoch"]
    assert Counter(line[1] for line in log)["1.2"] == 1
    assert Told(tmp_path, Space({"learn.lr": Choice(*rates)}, search), told.recipe).said == [], "stopped trials have ended"
    with pytest.raises(RecipeError, match="reports nothing between"):
        Told(tmp_path / "plain", Space({"learn.lr": Choice(*rates)}, search), PlainToy())


def test_optuna_learns_goes_on_and_makes_what_trials_share_once(tmp_path):
    search = SearchConfig(searcher="optuna", trials=5, seed=1)
    axes = {"draw.guidance": Choice(1.0, 2.0), "learn.lr": Uniform(0.0, 1.0)}
    told = Told(tmp_path, Space(axes, search), SweepToy())
    first = told.sweep.results()
    assert sorted(r.number for r in first) == list(range(5)) and all(r.status == "finished" for r in first)
    guidances = {r.values["draw.guidance"] for r in first}
    assert told.counts()["draw"] == 2 * len(guidances), "each picture once, whoever needs it"
    more = Told(tmp_path, Space(axes, replace(search, trials=7)), SweepToy())
    assert sorted(r.number for r in more.sweep.results()) == list(range(7)) and len([s for s in more.said if s.startswith("trial")]) == 2
    assert more.counts()["fit"] == 7, "nothing that was finished is done again"
    small = Told(tmp_path / "small", Space({"draw.guidance": Choice(1.0, 2.0)}, replace(search, trials=6)), SweepToy())
    assert len(small.sweep.results()) == 2, "a space that is searched through ends the search"

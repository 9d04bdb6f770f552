"""Searches on Ray Tune: trials that fail, are lost or lack memory; ASHA; Optuna, and what its trials
share."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from diffadapt.api.runners import make_runner
from diffadapt.core.config import override
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.recipes import load
from diffadapt.core.runs import Root
from diffadapt.orchestrate.resources import Layout, Share
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.orchestrate.searchers import Listed
from diffadapt.orchestrate.tune import TuneFan, _resources, _room
from diffadapt.orchestrate.tune_settings import tune_environment
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import SweepRequest, run_sweep
from diffadapt.run.trial import TrialWork, out_of_memory, run_trial
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.space import Choice, SearchConfig, Space, Uniform
from diffadapt.sweeps.trials import enumerate_trials
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
        self.recipe = replace(
            recipe,
            learn=replace(recipe.learn, folder=str(self.folder)),
            draw=replace(recipe.draw, side_log=str(self.folder / "log")),
        )
        self.sweep: Sweep = run_sweep(
            SweepRequest("toy", space, {"toy": self.recipe}),
            Root(str(root)),
            CONFIG,
            lambda execution: ToyRunner(),
            lambda execution: TuneFan(execution, ToyRunner),
            self.said.append,
        )
        self.results = {r.values.get("learn.threshold", r.number): r for r in self.sweep.results()}

    def counts(self) -> Counter:
        return Counter(line[0] for line in lines(self.folder / "log"))


def table(sweep: Sweep) -> list[dict]:
    return pq.read_table(io.BytesIO(sweep.read("sweep.parquet"))).to_pylist()


def test_trials_that_fail_are_lost_or_lack_memory_leave_the_others_alone(tmp_path):
    space = Space({"learn.threshold": Choice(0.1, 0.2, 0.3), "learn.lr": Choice(0.5, -1.0)})
    told = Told(tmp_path, space, SweepToy(learn=LearnConfig(die="once", of=0.2, memory=20)))
    results = {(r.values["learn.threshold"], r.values["learn.lr"]): r for r in told.sweep.results()}
    assert {k: r.status for k, r in results.items()} == {
        (t, lr): "finished" if lr > 0 else "failed" for t in (0.1, 0.2, 0.3) for lr in (0.5, -1.0)
    }
    assert all("told to fail" in r.error for r in results.values() if r.status == "failed")
    assert all(r.adjusted == {"learn.batch_size": 16} for r in results.values() if r.status == "finished"), (
        "64 and 32 do not fit"
    )
    assert sum(line.startswith("trial ") for line in told.said) == 6
    assert told.counts()["draw"] == 2 and (told.folder / "died").exists()
    assert [row["number"] for row in table(told.sweep)] == list(range(6))


def test_asha_stops_poor_trials_between_epochs_and_knows_them_after_a_restart(tmp_path):
    rates = (0.5, 0.6, 0.9, 1.1, 1.2)
    search = SearchConfig(scheduler="asha", reduction=2, concurrent=1)
    told = Told(tmp_path, Space({"learn.lr": Choice(*rates)}, search), SweepToy(learn=LearnConfig(epochs=4)))
    by_rate = {r.values["learn.lr"]: r for r in told.sweep.results()}
    assert (
        by_rate[0.5].status == "finished"
        and by_rate[0.5].objective_name == "im"
        and len(by_rate[0.5].epochs) == 4
    )
    stopped = by_rate[1.2]
    assert (
        stopped.status == "stopped"
        and list(stopped.epochs) == [stopped.objective]
        and stopped.objective == pytest.approx(0.15)
    )
    assert stopped.device_hours is not None and not stopped.error
    log = [line for line in lines(told.folder / "log") if line[0] == "epoch"]
    assert Counter(line[1] for line in log)["1.2"] == 1
    assert Told(tmp_path, Space({"learn.lr": Choice(*rates)}, search), told.recipe).said == [], (
        "stopped trials have ended"
    )
    with pytest.raises(RecipeError, match="reports nothing between"):
        Told(tmp_path / "plain", Space({"learn.lr": Choice(*rates)}, search), PlainToy())


@pytest.mark.slow
def test_optuna_learns_goes_on_and_makes_what_trials_share_once(tmp_path):
    search = SearchConfig(searcher="optuna", trials=5, seed=1)
    axes = {"draw.guidance": Choice(1.0, 2.0), "learn.lr": Uniform(0.0, 1.0)}
    told = Told(tmp_path, Space(axes, search), SweepToy())
    first = told.sweep.results()
    assert sorted(r.number for r in first) == list(range(5)) and all(r.status == "finished" for r in first)
    guidances = {r.values["draw.guidance"] for r in first}
    assert told.counts()["draw"] == 2 * len(guidances), "each picture once, whoever needs it"
    more = Told(tmp_path, Space(axes, replace(search, trials=7)), SweepToy())
    assert (
        sorted(r.number for r in more.sweep.results()) == list(range(7))
        and len([s for s in more.said if s.startswith("trial")]) == 2
    )
    assert more.counts()["fit"] == 7, "nothing that was finished is done again"
    small = Told(
        tmp_path / "small", Space({"draw.guidance": Choice(1.0, 2.0)}, replace(search, trials=6)), SweepToy()
    )
    assert len(small.sweep.results()) == 2, "a space that is searched through ends the search"


class Desked:
    """A desk without Tune: what would be asked and told is asked and told here."""

    def __init__(
        self,
        tmp_path: Path,
        count: int = 3,
        room: int = 9,
        retries: int = 1,
        on_result: Any = None,
        needs: Any = None,
    ):
        from diffadapt.orchestrate.desk import Desk

        self.results: list[Any] = []
        self.recipe = SweepToy()
        space = Space({"learn.threshold": Choice(*(i / 10 for i in range(count)))})
        root = Root(str(tmp_path))
        root.store.prepare()
        self.sweep = Sweep(root, "s")
        self.trials = enumerate_trials(space, ["toy"])
        self.work = lambda trial: TrialWork(str(tmp_path), "s", trial, self.recipe, "im")
        self.desk = Desk(
            Listed(self.trials),
            self.work,
            self.sweep,
            lambda: room,
            retries,
            on_result or self.results.append,
            needs,
        )

    def finish(self, key: str) -> None:
        self.desk.ended(key, run_trial(self.desk.live[key].work, ToyRunner))


def test_a_lost_trial_comes_again_smaller_after_a_lack_of_memory_and_fails_in_the_end(tmp_path):
    told = Desked(tmp_path, count=2)
    a, b = told.desk.suggest("a"), told.desk.suggest("b")
    assert told.desk.suggest("c") is None, "the list is empty, yet a trial may come back"
    told.desk.lost(
        "a", "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
    )
    told.desk.lost("b", "The actor died unexpectedly before finishing this task.")
    again, other = told.desk.suggest("c"), told.desk.suggest("d")
    assert (
        again["work"].adjusted == {"learn.batch_size": 32}
        and again["work"].trial == a["work"].trial
        and other["work"] == b["work"]
    )
    told.finish("c")
    told.desk.lost("d", "The actor died unexpectedly before finishing this task.\n\nThe node was killed.")
    assert told.desk.suggest("e") == "FINISHED"
    assert [(r.status, dict(r.adjusted)) for r in told.results] == [
        ("finished", {"learn.batch_size": 32}),
        ("failed", {}),
    ]
    assert (
        told.results[1].error.startswith("The trial's worker process was lost 2 times (The node was killed)")
        and len(told.sweep.results()) == 2
    )
    told.desk.ended("c", None)
    assert len(told.results) == 2, "each result once"


def test_trials_wait_for_room_and_for_what_another_one_makes(tmp_path):
    told = Desked(tmp_path, room=1)
    told.desk.suggest("a")
    assert told.desk.suggest("b") is None
    told.finish("a")
    assert told.desk.suggest("b")["work"].trial == told.trials[1]
    needs = {t.id: {"shared": "draw/x", t.id: f"own/{t.id}"} for t in told.trials}
    told = Desked(tmp_path / "shared", needs=lambda work: needs[work.trial.id])
    told.desk.suggest("a")
    assert told.desk.suggest("b") is None and told.desk.suggest("b") is None, (
        "the first trial is making what both need"
    )
    told.sweep.root.store.write_bytes("draw/x", b"made")
    told.desk._looked = -9.0
    assert told.desk.suggest("b")["work"].trial == told.trials[1]


def test_what_cannot_be_written_down_ends_the_search(tmp_path):
    def full(result: Any) -> None:
        raise StoreError("The disk is full.")

    told = Desked(tmp_path, on_result=full)
    told.desk.suggest("a")
    told.desk.news._guard(told.finish, "a")
    assert told.desk.suggest("b") == "FINISHED"
    with pytest.raises(StoreError, match="full"):
        told.desk.check()


def test_the_room_on_a_cluster():
    assert [
        _room(_layout(4, actors), SearchConfig(concurrent=c)) for actors, c in ((4, 0), (4, 3), (2, 8))
    ] == [4, 3, 2]
    assert [
        _room(_layout(lanes, 4, workers), SearchConfig()) for lanes, workers in ((8, 2), (8, 3), (2, 2))
    ] == [4, 2, 1]
    assert _resources(_layout(2, 2)) == {"cpu": 0.5} and _resources(_layout(2, 2, 2)) == {"cpu": 0.01}


def _layout(lanes: int, actors: int, workers: int = 1) -> Layout:
    return Layout("cpu", Share(0.5), actors, Share(0.5), workers, lanes, 1)


@pytest.mark.slow
def test_trials_of_two_training_workers_nest_ray_train(tmp_path):
    """The real recipe on real data: fits on two workers each, inside trials."""
    recipe = override(
        load("adapt_anything/digits"),
        {
            "generator.images_per_class": 5,
            "prompts.prompts_per_class": 5,
            "generator.steps": 2,
            "uda.epochs": 1,
            "uda.steps_per_epoch": 4,
            "uda.batch_size": 16,
            "ssl.epochs": 1,
            "ssl.steps_per_epoch": 4,
            "ssl.batch_size": 16,
            "seeds": (0,),
            "controls": (),
            "clip.weights": "",
            "execution.train_workers": 2,
            "execution.device": "cpu",
        },
    )
    said: list[str] = []
    space = Space({"uda.lr": Choice(0.05, 0.01)}, SearchConfig(scheduler="asha", reduction=2))
    sweep = run_sweep(
        SweepRequest("toy", space, {"digits": recipe}),
        Root(str(tmp_path)),
        recipe.execution,
        make_runner,
        TuneFan,
        said.append,
    )
    assert {r.status for r in sweep.results()} <= {"finished", "stopped"} and len(sweep.results()) == 2, said
    assert any(r.status == "finished" and len(r.epochs) == 2 + 1 for r in sweep.results())


def test_a_worker_that_memory_ran_out_for_is_a_lost_trial_and_no_fault_of_tune():
    """What Ray raises for it is no RayActorError, at which Tune 2.60 would end every trial."""
    lost: list[Any] = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda tracked, error: lost.append(error))
    manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    told = {
        "tracked_actor_task": SimpleNamespace(_tracked_actor=actor, _on_error=None),
        "exception": OutOfMemoryError("1 worker was killed due to the node running low on memory."),
    }
    with tune_environment():
        RayActorManager._actor_task_failed(manager, **told)
    assert (
        isinstance(lost[0], RayActorError)
        and out_of_memory(str(lost[0]))
        and manager._failed_actor_ids == {1}
    )
    with pytest.raises(RuntimeError, match="unexpected"):
        RayActorManager._actor_task_failed(manager, **told)
    assert len(lost) == 1 and "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ

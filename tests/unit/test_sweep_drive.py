"""A sweep without Ray: what trials share is made once, interruptions lose nothing, memory that runs out
halves one stage's batch, TPE goes on."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.runs import Root, Run
from diffadapt.orchestrate.searchers import Optuna
from diffadapt.run.epochs import Epochs, read_epochs
from diffadapt.run.progress import NodeProgress
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import LocalFan, SweepRequest, plan_sweep, run_sweep
from diffadapt.run.trial import TrialWork, halved, out_of_memory, run_trial
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform
from diffadapt.sweeps.trials import enumerate_trials
from diffadapt.sweeps.verify import verify
from tests.ray.sweeptoy import Draw, Learn, LearnConfig, Select, SweepToy, ToyRunner
from tests.ray.toy import lines

CONFIG = ExecutionConfig(runner="local", device="cpu")
THRESHOLDS = Choice(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


class Dies(ToyRunner):
    """Stops its driver after so many receipts, over all runners that are made."""

    left = 0

    def run_chains(self, chains, stages, store, on_receipt) -> None:
        super().run_chains(chains, stages, store, lambda r: self._pass(r, on_receipt))

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        super().run_fits(fits, stages, store, log_dir, lambda r: self._pass(r, on_receipt), on_progress)

    def _pass(self, receipt, on_receipt) -> None:
        on_receipt(receipt)
        Dies.left -= 1
        if Dies.left == 0:
            raise KeyboardInterrupt


def toy(folder: Path, **learn: Any) -> SweepToy:
    folder.mkdir(parents=True, exist_ok=True)
    return SweepToy(draw=Draw(side_log=str(folder / "log")), learn=LearnConfig(folder=str(folder), **learn))


def sweep(root: Path, space: Space, recipe: SweepToy, runner: type = ToyRunner) -> Sweep:
    return run_sweep(
        SweepRequest("toy", space, {"toy": recipe}),
        Root(str(root)),
        CONFIG,
        runner,
        lambda e: LocalFan(runner),
        lambda line: None,
    )


def counts(folder: Path) -> Counter:
    return Counter(line[0] for line in lines(folder / "log"))


def table(made: Sweep) -> list[dict]:
    rows = pq.read_table(io.BytesIO(made.read("sweep.parquet"))).to_pylist()
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "device_hours", "made", "found")}
        for row in rows
    ]


def test_what_is_made_is_what_the_plan_says_is_needed_together(tmp_path):
    space = Space(
        {
            "draw.guidance": Choice(1.0, 2.0),
            "draw.images": Choice(50, 100, 200),
            "learn.threshold": Choice(0.1, 0.2),
        }
    )
    recipe = toy(tmp_path / "notes")
    plan = {e.kind: e for e in plan_sweep(space, {"toy": recipe}, Root(str(tmp_path / "root"))).economy}
    assert (plan["draw"].apart_items, plan["draw"].together_items) == (
        2 * 2 * (50 + 100 + 200),
        2 * 200,
    ), "50, 100 and 200 images cost 200"
    sweep(tmp_path / "root", space, recipe)
    made = counts(tmp_path / "notes")
    assert made["draw"] == plan["draw"].together == 40 and made["fit"] == plan["learn"].together == 12
    assert {
        e.kind: e.at_hand for e in plan_sweep(space, {"toy": recipe}, Root(str(tmp_path / "root"))).economy
    } == {k: e.together for k, e in plan.items()}


def test_more_thresholds_call_the_generator_no_more(tmp_path):
    recipe = toy(tmp_path / "notes")
    sweep(tmp_path / "root", Space({"learn.threshold": Choice(0.1)}), recipe)
    before = counts(tmp_path / "notes")["draw"]
    sweep(tmp_path / "root", Space({"learn.threshold": THRESHOLDS}), recipe)
    assert counts(tmp_path / "notes")["draw"] == before == 2 and counts(tmp_path / "notes")["fit"] == 6


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_sweep_goes_on_and_ends_in_the_same_table(tmp_path, after):
    space = Space({"draw.guidance": Choice(1.0, 2.0), "learn.lr": Choice(0.4, -1.0, 0.6)})
    whole = sweep(tmp_path / "whole", space, toy(tmp_path / "a"))
    Dies.left = after
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "parts", space, toy(tmp_path / "b"), Dies)
    parts = sweep(tmp_path / "parts", space, toy(tmp_path / "b"))
    assert table(parts) == table(whole) and [row["status"] for row in table(parts)].count("failed") == 2
    twice = counts(tmp_path / "b") - counts(tmp_path / "a")
    assert twice["draw"] == 0 and twice["epoch"] == 0, "nothing that was finished is made again"


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("file", ["scores.parquet", "warnings.json", "result.json", "SHA256SUMS"])
def test_a_damaged_trial_is_carried_out_again(tmp_path, file, repair):
    """By the same command, before or after `cache verify --repair`; the store serves what it made."""
    space, recipe = Space({"learn.threshold": Choice(0.1, 0.2)}), toy(tmp_path / "toy")
    done = sweep(tmp_path / "root", space, recipe)
    trial = done.trial(done.results()[1].id)
    good, name = trial.read("scores.parquet"), f"sweeps/{done.name}/trials/{trial.name}"
    trial.place.write_bytes(f"{trial.name}/{file}", b"?" * 40)
    found = [d for d in verify(done.root) if d.names]
    assert [(d.where, d.names) for d in found] == [(name, (file,))]
    if repair:
        found[0].drop()
    begun = len(lines(tmp_path / "toy" / "log"))
    again = sweep(tmp_path / "root", space, recipe)
    assert [r.status for r in again.results()] == ["finished"] * 2
    assert not [d for d in verify(done.root) if d.names] and again.trial(trial.name).sums()
    assert again.trial(trial.name).read("scores.parquet") == good
    assert len(lines(tmp_path / "toy" / "log")) == begun


def test_a_setting_that_cannot_be_planned_any_more_keeps_its_result(tmp_path, monkeypatch):
    space = Space({"learn.threshold": Choice(0.1, 0.2)})
    recipe = toy(tmp_path / "notes")
    first = sweep(tmp_path / "root", space, recipe)

    def refuse(self, inputs):
        if self.config.threshold == 0.1:
            raise RecipeError("It cannot be planned any more.")
        return original(self, inputs)

    original = Learn.plan
    monkeypatch.setattr(Learn, "plan", refuse)
    assert table(sweep(tmp_path / "root", space, recipe)) == table(first)


def work(root: Path, recipe: Any, space: Space | None = None) -> TrialWork:
    trial, *_ = enumerate_trials(space or Space({"learn.threshold": Choice(0.1)}), ["toy"])
    Root(str(root)).store.prepare()
    return TrialWork(str(root), "toy-sweep", trial, recipe, "im")


def test_memory_that_runs_out_halves_the_batch_of_that_training(tmp_path):
    recipe = toy(tmp_path / "notes", memory=20)
    done = run_trial(work(tmp_path / "root", recipe), ToyRunner)
    assert done.status == "finished" and done.adjusted == {"learn.batch_size": 16} and done.error == ""
    assert [line[3] for line in lines(tmp_path / "notes" / "log") if line[0] == "fit"] == ["64", "32", "16"]
    tight = run_trial(work(tmp_path / "tight", toy(tmp_path / "more", memory=1)), ToyRunner)
    assert (
        tight.status == "failed"
        and "out of memory" in tight.error
        and tight.adjusted == {"learn.batch_size": 8}
    )
    (kept,) = Sweep(Root(str(tmp_path / "tight")), "toy-sweep").results()
    assert (kept.id, kept.status, kept.adjusted) == (tight.id, "failed", tight.adjusted)


def test_other_errors_end_a_trial_at_once_and_nothing_else(tmp_path):
    failing = run_trial(work(tmp_path / "root", toy(tmp_path / "notes", lr=-1.0)), ToyRunner)
    assert (
        failing.status == "failed"
        and "told to fail" in failing.error
        and counts(tmp_path / "notes")["fit"] == 1
    )

    def broken(execution):
        raise ZeroDivisionError("a bug")

    assert (
        "ZeroDivisionError: a bug" in run_trial(work(tmp_path / "bug", toy(tmp_path / "notes")), broken).error
    )
    nothing = replace(work(tmp_path / "field", toy(tmp_path / "notes")), adjusted={"learn.batch": 1})
    assert "no field" in run_trial(nothing, ToyRunner).error


def test_which_batches_are_halved():
    recipe = SweepToy(learn=LearnConfig(batch_size=10))
    stage = Learn(recipe.learn)
    assert halved(recipe, {}, stage) == {"learn.batch_size": 5} and halved(recipe, {"a.b": 1}) == {
        "a.b": 1,
        "learn.batch_size": 5,
    }
    assert halved(recipe, {}, recipe.draw) == {}, "the generator's memory is not the training's"
    assert halved(SweepToy(learn=LearnConfig(batch_size=3)), {}, stage) == {}
    two = replace(recipe, execution=ExecutionConfig(train_workers=2))
    assert halved(two, {}) == {} and halved(replace(two, learn=LearnConfig(batch_size=16)), {}) == {
        "learn.batch_size": 8
    }
    for text in (
        "OutOfMemoryError: CUDA out of memory.",
        "OSError: [Errno 12] Cannot allocate memory",
        "MemoryError: ",
        "The device ran out of memory in a training step",
    ):
        assert out_of_memory(text)
    assert not out_of_memory("The stage quarantined 3 of 4 items")


def test_epochs_are_those_of_the_whole_trial(tmp_path):
    place, seen = Run(Root(str(tmp_path)), "trial"), []
    recipe = SweepToy(learn=LearnConfig(epochs=3), select=Select(watch="im"))
    epochs = Epochs(place, recipe.pipeline(), {}, lambda *news: seen.append(news))
    epochs.of_fit = {"first": 4, "learn": 3}
    open_fit = {"first": NodeProgress(1, 1), "learn": NodeProgress(1, 1)}
    epochs.add("first", 4, 0.5, open_fit)
    epochs.add("learn", 1, 0.6, {**open_fit, "first": NodeProgress(1, 1, done=1)})
    again = Epochs(place, recipe.pipeline(), {}, lambda *news: seen.append(news))
    again.of_fit = epochs.of_fit
    found = {**open_fit, "first": NodeProgress(1, 1, hits=1)}
    again.add("learn", 2, 0.7, found)
    again.add("learn", 3, 0.8, found)
    assert seen == [(4, 0.5), (5, 0.6), (6, 0.7)], "nothing is to be decided after the last epoch"
    assert again.values() == [0.5, 0.6, 0.7, 0.8] and read_epochs(place) == (
        {},
        {4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8},
    )
    assert Epochs(place, recipe.pipeline(), {"learn.batch_size": 2}, seen.append).values() == [], (
        "another batch size begins anew"
    )


AXES = {"learn.lr": Uniform(0.1, 0.9), "learn.epochs": Integers(1, 9, 2), "seeds": Choice((0,), (0, 1))}


def judge(trial: Any) -> TrialResult:
    value = 1 - abs(trial.values["learn.lr"] - 0.5) + 0.01 * trial.values["learn.epochs"]
    return TrialResult(
        trial.id,
        trial.number,
        trial.recipe,
        trial.values,
        trial.changes,
        "finished",
        "im",
        objective=value,
        device_hours=trial.values["learn.epochs"] / 10,
    )


def search(
    place: Sweep, space: Space, known: list[TrialResult], stop: int = 99, recipes: tuple[str, ...] = ("toy",)
) -> list[TrialResult]:
    source, results = Optuna(space, recipes, known, place), list(known)
    while len(results) - len(known) < stop and (trial := source.next()) is not None:
        results.append(judge(trial))
        source.tell(results[-1])
    return results


@pytest.mark.parametrize("cost", ["none", "device_hours"])
def test_tpe_goes_on_as_if_it_had_not_been_interrupted(tmp_path, cost):
    space = Space(AXES, SearchConfig(searcher="optuna", trials=24, cost=cost))
    places = [Sweep(Root(str(tmp_path / name)), "s") for name in "ab"]
    whole = search(places[0], space, [])
    half = search(places[1], space, [], stop=9)
    open_trial = Optuna(space, ["toy"], half, places[1]).next()
    assert search(places[1], space, half) == whole and whole[9].id == open_trial.id, (
        "what was under way comes first"
    )
    assert [r.number for r in whole] == list(range(24)) and len({r.id for r in whole}) == 24
    late = [r.objective for r in whole[16:]]
    assert cost != "none" or sum(late) / len(late) > sum(r.objective for r in whole[:8]) / 8, "it learns"


def test_tpe_ends_with_the_space_and_takes_recipes_in_turn(tmp_path):
    place = Sweep(Root(str(tmp_path)), "s")
    space = Space(
        {"learn.lr": Choice(0.2, 0.5), "learn.epochs": Choice(1, 3)},
        SearchConfig(searcher="optuna", trials=9),
    )
    results = search(place, space, [], recipes=("a", "b"))
    assert [r.recipe for r in results[:4]] == ["a", "b", "a", "b"] and Counter(r.recipe for r in results) == {
        "a": 4,
        "b": 4,
    }
    failed = replace(results[0], status="failed", objective=None)
    assert Optuna(space, ["a", "b"], [failed, *results[1:]], place).next().id == failed.id, (
        "what failed is tried again"
    )
    place.write("suggested.json", b"{damaged")
    assert Optuna(space, ["a", "b"], results, place).next() is None


def test_what_no_axis_changes_is_made_before_a_search_that_decides_as_it_goes(tmp_path):
    recipe, found = toy(tmp_path / "notes"), {}

    class Looks:
        name = "looks"

        def run(self, search, trials, known, on_result) -> None:
            found.update(trials=list(trials), made=counts(tmp_path / "notes"))

        def close(self) -> None: ...

    space = Space({"learn.lr": Uniform(0.2, 0.5)}, SearchConfig(searcher="optuna", trials=3))
    run_sweep(
        SweepRequest("toy", space, {"toy": recipe}),
        Root(str(tmp_path / "root")),
        CONFIG,
        ToyRunner,
        lambda e: Looks(),
        lambda line: None,
    )
    assert found["trials"] == [] and found["made"] == {"draw": 2}, (
        "both shards of images are there before the first trial, and no training"
    )


def test_a_result_that_cannot_be_recorded_is_an_error_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Sweep, "record", lambda self, result: (_ for _ in ()).throw(StoreError("The disk is full."))
    )
    with pytest.raises(StoreError, match="full"):
        run_trial(work(tmp_path / "root", toy(tmp_path / "notes")), ToyRunner)

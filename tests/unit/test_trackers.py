"""Trackers: found by file, told alike, of no harm to a fit; the documentation's example as it stands."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from diffadapt.core.errors import RecipeError, ResourceError
from diffadapt.core.identity import digest
from diffadapt.core.record import Score, to_bytes
from diffadapt.run.logs import Logs, track_run
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.trackers import base
from diffadapt.train.trackers.base import TRACKERS, Tracker, Trackers, check_trackers
from tests.unit.corekit import Toy, run_toy
from tests.unit.readmekit import blocks

SCORE = Score("toy", "Source (a)", False, "mnist", "", 0, "top1", 61.5, 9, 10, 0)
PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """The example's file in a folder of the user's own."""
    folder = tmp_path / "trackers"
    folder.mkdir()
    (folder / "lines.py").write_text(blocks()["lines.py"])
    package = sys.modules["diffadapt.train.trackers"]
    monkeypatch.setattr(package, "__path__", list(package.__path__))
    monkeypatch.setenv("DIFFADAPT_TRACKERS", str(folder))
    yield
    sys.modules.pop("diffadapt.train.trackers.lines", None)


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_example_is_told_of_a_fit(lines, tmp_path):
    with Logs(str(tmp_path / "runs/toy-1/tensorboard"), "classifier", ("tensorboard", "lines")) as logs:
        reporter = LocalReporter("cpu", logs.trackers)
        reporter.report(1, 2, {"loss": 0.5})
        reporter.report(2, 2, {"loss": 0.25})
    folder = tmp_path / "runs/toy-1/tensorboard/classifier"
    assert read(folder / "lines.jsonl")[1] == {"fit": "classifier", "step": 2, "loss": 0.25}
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_the_example_is_told_of_a_run(lines, tmp_path):
    toy = Toy()
    run, _ = run_toy(tmp_path / "root", replace(toy, execution=replace(toy.execution, trackers=("lines",))))
    assert (Path(run.url) / "tensorboard" / "lines.jsonl").exists()
    run.write("scores.parquet", to_bytes([SCORE]))
    track_run(run, ("tensorboard", "lines"))
    (record,) = read(Path(run.url) / "tensorboard" / "lines.jsonl")
    assert record == {"run": run.name, "method": "Source (a)", "target": "mnist", "top1": 61.5}


def test_a_run_without_others_leaves_no_folder(tmp_path):
    run, _ = run_toy(tmp_path / "root")
    assert not (Path(run.url) / "tensorboard").exists()


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="There is no tracker 'tensorbord'. Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    assert TRACKERS.names() == ["mlflow", "tensorboard", "wandb"]


def test_a_tracker_that_breaks_is_left_out(monkeypatch, tmp_path, caplog):
    told = []

    class Breaks(Tracker):
        def scalars(self, step, values):
            raise OSError("the network is gone")

    class Counts(Tracker):
        def scalars(self, step, values):
            told.append(step)

    monkeypatch.setattr(base, "TRACKERS", SimpleNamespace(load={"a": Breaks, "b": Counts}.__getitem__))
    trackers = Trackers(["a", "b"], "run", "fit", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        trackers.scalars(1, {})
        trackers.scalars(2, {})
    trackers.close()
    assert told == [1, 2] and caplog.text.count("OSError: the network is gone") == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match=f"needs the package {name}: pip install {name}"):
        Trackers([name], "run", "fit", str(tmp_path)).scalars(1, {"loss": 1.0})


def tell_all(name: str, folder: Path) -> None:
    fit, run = Trackers([name], "toy-1", "uda.a-b", str(folder)), Trackers([name], "toy-1", "", str(folder))
    fit.scalars(3, {"loss": 0.5})
    fit.figures(3, {"samples": PICTURE})
    fit.close()
    run.scores([SCORE])
    run.ended("finished", {"align.scale": 2.0})
    run.close()


def test_trackers_are_told_where_they_are_and_what_begins_and_ends(monkeypatch, tmp_path):
    """A seam's own test: paths from the outside in, the recipe at both ends, a trial below its sweep."""
    told = []

    class Notes(Tracker):
        def begin(self, parameters):
            told.append(("begin", self.path, dict(parameters)))

        def summary(self, values):
            told.append(("summary", self.path, dict(values)))

        def ended(self, state, parameters):
            told.append((state, self.path, dict(parameters)))

    monkeypatch.setattr(base, "TRACKERS", SimpleNamespace(load=lambda name: Notes, names=lambda: ["notes"]))
    toy = Toy()
    toy = replace(toy, execution=replace(toy.execution, trackers=("notes",)))
    run, _ = run_toy(tmp_path / "root", toy)
    (begun, path, parameters), (state, _, again) = told
    assert (begun, state, path) == ("begin", "finished", (run.name,)) and parameters == again
    assert parameters["recipe"] == "toy" and run.name.endswith(parameters["digest"])
    assert parameters["numbers.rows"] == toy.numbers.rows and not any("execution" in k for k in parameters)
    with Logs(str(tmp_path / "sweeps/s-1/trials/t-2/tensorboard"), "uda", ("notes",)) as logs:
        logs.trackers.summary({"objective": 1.0})
    assert told[-1] == ("summary", ("s-1", "t-2", "uda"), {"objective": 1.0})
    told.clear()
    track_run(run, ("tensorboard", "notes"), {}, "failed", {"objective": 0.5, "accuracy": None})
    assert told == [("summary", (run.name,), {"objective": 0.5}), ("failed", (run.name,), {})]


def test_a_tracker_is_in_no_digest(tmp_path):
    toy = Toy()
    plain, _ = run_toy(tmp_path / "root", toy)
    other, _ = run_toy(tmp_path / "root", replace(toy, execution=replace(toy.execution, trackers=())))
    assert plain.name == other.name


def test_a_package_that_lacks_is_said_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    toy = Toy()
    with pytest.raises(ResourceError, match="needs the package mlflow"):
        run_toy(tmp_path / "root", replace(toy, execution=replace(toy.execution, trackers=("mlflow",))))
    assert not (tmp_path / "root" / "runs").exists()


def test_what_failed_is_not_asked_by_the_next_fit(monkeypatch, tmp_path, caplog):
    asked = []

    class Down(Tracker):
        def start(self):
            asked.append(self.node)
            raise OSError("no answer")

    monkeypatch.setattr(base, "TRACKERS", SimpleNamespace(load=lambda name: Down))
    for node in ("a", "b"):
        Trackers(["down"], "run-down", node, str(tmp_path)).scalars(1, {})
    assert asked == ["a"] and caplog.text.count("no answer") == 1 and "of run-down" in caplog.text


def test_mlflow_shows_a_sweep_with_its_children(monkeypatch, tmp_path):
    """The real package, on a database of its own, read back by its own client."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # what goes on is the run that it was
        sweep = Trackers(["mlflow"], "s-1", "", str(tmp_path))
        sweep.begin({"recipe": "toy", "searcher": "grid"})
        trial = Trackers(["mlflow"], "t-2", "", str(tmp_path), "s-1")
        trial.begin({"recipe": "toy", "digest": "abc", "align.scale": 2.0})
        fit = Trackers(["mlflow"], "t-2", "uda", str(tmp_path), "s-1")
        fit.scalars(3, {"loss": 0.5})
        fit.figures(3, {"samples": PICTURE})
        fit.close()
        trial.scores([SCORE])
        trial.summary({"objective": 0.25})
        trial.ended("finished", {})
        sweep.ended("failed", {})
        trial.close()
        sweep.close()
    runs = {r.info.run_name: r for r in mlflow.MlflowClient().search_runs(["1"])}
    assert set(runs) == {"s-1", "t-2", "uda"}
    parent = {name: r.data.tags.get("mlflow.parentRunId") for name, r in runs.items()}
    ids = {name: r.info.run_id for name, r in runs.items()}
    assert parent == {"s-1": None, "t-2": ids["s-1"], "uda": ids["t-2"]}
    assert runs["t-2"].data.params == {"recipe": "toy", "digest": "abc", "align.scale": "2.0"}
    assert runs["t-2"].data.metrics == {"top1/Source _a_/mnist": 61.5, "objective": 0.25}
    history = mlflow.MlflowClient().get_metric_history(ids["t-2"], "objective")
    assert len(history) == 1 and runs["uda"].data.metrics == {"loss": 0.5}
    assert (runs["s-1"].info.status, runs["t-2"].info.status) == ("FAILED", "FINISHED")


def test_wandb_writes_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tell_all("wandb", tmp_path)
    (file, other) = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert file.stat().st_size > 100 and other.stat().st_size > 100


class Config(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


def test_wandb(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("WANDB_DIR", raising=False)
    runs, module = [], ModuleType("wandb")

    def init(**settings):
        runs.append(SimpleNamespace(settings=settings, calls=[], summary={}, config=Config()))
        runs[-1].log = lambda values, step: runs[-1].calls.append((values, step))
        runs[-1].finish = lambda run=runs[-1]: run.calls.append("finished")
        return runs[-1]

    module.init, module.Image = init, np.shape
    monkeypatch.setitem(sys.modules, "wandb", module)
    tell_all("wandb", tmp_path)
    fit, run = runs
    kept = ("project", "group", "job_type", "name", "resume", "dir")
    assert [fit.settings[k] for k in kept] == [
        "diffadapt", "toy-1", "fit", "toy-1/uda.a-b", "allow", str(tmp_path),
    ]  # fmt: skip
    assert (fit.settings["id"], run.settings["id"]) == (
        digest(["toy-1", "uda.a-b"], 16),
        digest(["toy-1", ""], 16),
    )
    assert run.config == {"align.scale": 2.0, "state": "finished"}
    assert fit.calls == [({"loss": 0.5}, 3), ({"samples": (4, 6, 3)}, 3), "finished"]
    assert run.summary == {"top1/Source (a)/mnist": 61.5} and caplog.text == ""

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
    run.close()


class Client:
    """What the MLflow tracker uses of mlflow.MlflowClient."""

    calls: list = []
    runs: dict = {}

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return f"id of {name}"

    def search_runs(self, experiments, filter_string, max_results):
        return [run for name, run in self.runs.items() if f"'{name}'" in filter_string]

    def create_run(self, experiment_id, run_name, tags):
        self.runs[run_name] = SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment_id}:{run_name}"))
        return self.runs[run_name]

    def log_metric(self, run_id, key, value, step=None):
        self.calls.append((run_id, key, value, step))

    def log_image(self, run_id, image, artifact_file):
        self.calls.append((run_id, artifact_file, image.shape))

    def set_terminated(self, run_id):
        self.calls.append((run_id, "terminated"))


def test_mlflow(monkeypatch, tmp_path, caplog):
    module = ModuleType("mlflow")
    module.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", module)
    tell_all("mlflow", tmp_path)
    fit, run = "id of diffadapt:toy-1/uda.a-b", "id of diffadapt:toy-1"
    assert Client.calls == [
        (fit, "loss", 0.5, 3), (fit, "figures/samples-0000003.png", (4, 6, 3)), (fit, "terminated"),
        (run, "top1/Source _a_/mnist", 61.5, None), (run, "terminated"),
    ]  # fmt: skip
    tell_all("mlflow", tmp_path)
    assert len(Client.runs) == 2 and caplog.text == ""


def test_wandb(monkeypatch, tmp_path, caplog):
    runs, module = [], ModuleType("wandb")

    def init(**settings):
        runs.append(SimpleNamespace(settings=settings, calls=[], summary={}))
        runs[-1].log = lambda values, step: runs[-1].calls.append((values, step))
        runs[-1].finish = lambda run=runs[-1]: run.calls.append("finished")
        return runs[-1]

    module.init, module.Image = init, np.shape
    monkeypatch.setitem(sys.modules, "wandb", module)
    tell_all("wandb", tmp_path)
    fit, run = runs
    assert fit.settings | {"id": ""} == {
        "project": "diffadapt", "group": "toy-1", "name": "toy-1/uda.a-b", "id": "", "resume": "allow",
    }  # fmt: skip
    assert fit.calls == [({"loss": 0.5}, 3), ({"samples": (4, 6, 3)}, 3), "finished"]
    assert run.summary == {"top1/Source (a)/mnist": 61.5} and caplog.text == ""

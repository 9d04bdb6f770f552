"""Which runner auto is, where it is said, and that a run is planned once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffadapt.api import runners
from diffadapt.cli import main
from diffadapt.core import machine as this_machine
from diffadapt.core import pipeline
from diffadapt.run import choice
from diffadapt.run.choice import choose, gpu_count
from diffadapt.run.local import LocalRunner
from diffadapt.run.local_pool import LocalPool
from diffadapt.run.runner import ExecutionConfig
from tests.chaos.toys import ToyRunner


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of so many cores and GPUs, with Ray or without."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(this_machine, "DEVICES", tmp_path)
    monkeypatch.setattr(this_machine, "QUOTA", tmp_path / "cpu.max")

    def make(cores: int, gpus: int = 0, ray: bool = True) -> None:
        monkeypatch.setattr(this_machine.os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(choice, "has_ray", lambda: ray)
        for i in range(gpus):
            (tmp_path / f"nvidia{i}").touch()
        (tmp_path / "nvidia-uvm").touch()

    return make


@pytest.mark.parametrize(
    ("cores", "gpus", "changes", "runner", "workers"),
    [
        (1, 0, {}, "local", 1),
        (2, 0, {}, "local", 2),
        (8, 0, {"threads": 3}, "local", 2),
        (8, 0, {"actors": 3}, "local", 3),
        (8, 1, {}, "local", 1),
        (8, 1, {"device": "cpu"}, "local", 8),
        (8, 1, {"gpus_per_actor": 0.5}, "ray", 0),
        (8, 2, {}, "ray", 0),
        (8, 2, {"runner": "local"}, "local", 1),
        (2, 0, {"runner": "local", "actors": 2}, "local", 2),
        (2, 0, {"train_workers": 2}, "ray", 0),
        (2, 0, {"address": "10.0.0.1:6379"}, "ray", 0),
        (1, 0, {"runner": "ray"}, "ray", 0),
    ],
)
def test_auto_is_ray_where_ray_can_win(machine, cores, gpus, changes, runner, workers) -> None:
    machine(cores, gpus)
    found = choose(replace(ExecutionConfig(), **changes))
    assert (found.runner, found.workers) == (runner, workers)


def test_without_ray_auto_is_local_and_says_what_is_missing(machine, monkeypatch) -> None:
    machine(2, ray=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert str(choose(ExecutionConfig())) == (
        "in 2 local processes (a cluster is named, but Ray is not installed)"
    )


def test_gpus_are_those_that_are_shown(machine, monkeypatch) -> None:
    machine(2, gpus=4)
    for shown, count in (("", 0), ("-1", 0), ("1,3", 2), ("0,1,2,3,4", 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert gpu_count() == count


def test_the_choice_is_made(machine) -> None:
    machine(2)
    pool = runners.make_runner(ExecutionConfig())
    assert isinstance(pool, LocalPool) and pool.workers == 2
    assert type(runners.make_runner(ExecutionConfig(runner="local"))) is LocalRunner


def test_run_and_plan_say_where_the_work_is_done_and_a_run_is_planned_once(
    machine, monkeypatch, capsys, tmp_path: Path
) -> None:
    machine(2)
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(Path(__file__).parents[1] / "chaos" / "recipes"))
    monkeypatch.setattr("diffadapt.api.runners.make_runner", lambda config: ToyRunner())
    planned = []
    plan_node = pipeline.plan_node
    monkeypatch.setattr(
        pipeline, "plan_node", lambda name, *rest: planned.append(name) or plan_node(name, *rest)
    )
    words = ("toy", "--root", str(tmp_path), "--execution.runner", "auto")
    assert main(["plan", *words]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(
        "shards to make, in 2 local processes (one machine, which Ray would not make faster)"
    )
    planned.clear()
    assert main(["run", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first
    assert planned and len(planned) == len(set(planned)), "every node once"
    assert main(["run", *words]) == 0
    assert capsys.readouterr().out.startswith("toy: everything is in the store\n")

"""Two drivers of the same work, whole or in part: one does it, both end well, with the bytes of one alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diffadapt.core import files, lease
from diffadapt.core.artifact import Receipt
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.schedule import Task
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import FitJob
from diffadapt.run.fit import _commit
from diffadapt.run.progress import NodeProgress, Progress
from diffadapt.run.work import Work
from tests.unit.corekit import Double, Numbers, Total, Toy, allowing, run_toy

PLATFORM = Path(files.__file__).parents[2]


@dataclass(frozen=True)
class Slow(Total):
    """Says when it begins, and waits for leave to end."""

    kind: ClassVar[str] = "slow"
    begun: ClassVar[list[threading.Event]] = []
    leave: ClassVar[threading.Event] = threading.Event()

    def fit(self, job: FitJob) -> dict[str, Any]:
        event = threading.Event()
        Slow.begun.append(event)
        assert Slow.leave.wait(60)
        return super().fit(job)


@dataclass(frozen=True)
class Sharing(Toy):
    """Two recipes of other names and fields share the fit."""

    def pipeline(self) -> Pipeline:
        return Pipeline(
            (
                Node("numbers", Numbers()),
                Node("slow", Slow(), ("numbers",)),
                Node("double", Double(factor=2 + self.seed), ("numbers",)),
            )
        )


def side_by_side(*starts: Any) -> list[Any]:
    results: list[Any] = [None] * len(starts)

    def call(i: int) -> None:
        results[i] = starts[i]()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(starts))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while not Slow.begun and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(2.5)  # whoever does not heed the lease begins meanwhile
    Slow.leave.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def test_two_runs_that_share_a_fit_train_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "begun", [])
    monkeypatch.setattr(Slow, "leave", threading.Event())
    runs = side_by_side(
        lambda: run_toy(tmp_path, Sharing(), name="one"),
        lambda: run_toy(tmp_path, Sharing(seed=1), name="two"),
    )
    assert len(Slow.begun) == 1 and all(run.status()["state"] == "finished" for run, _ in runs)
    alone, _ = run_toy(tmp_path / "alone", Sharing(seed=1), name="two")
    assert Root(str(tmp_path)).run("two").read("manifest.json") == alone.read("manifest.json")


def test_the_same_run_twice_at_once_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "begun", [])
    monkeypatch.setattr(Slow, "leave", threading.Event())
    runs = side_by_side(lambda: run_toy(tmp_path, Sharing()), lambda: run_toy(tmp_path, Sharing()))
    made = [[r.node for r in runner.receipts if r.status == "made"] for _, runner in runs]
    assert sorted(map(len, made)) == [0, 7] and len(Slow.begun) == 1
    assert all(run.status()["state"] == "finished" for run, _ in runs)


def test_what_another_driver_set_apart_counts_here_too(tmp_path):
    """Shards that appear in the middle of a run, made by somebody else: their failures are in the manifest,
    as they are where one driver did it all."""
    broken = tmp_path / "broken"
    broken.write_text("n/0/s002-1")
    recipe = allowing(Toy(numbers=Numbers(broken=str(broken))), 0.5)

    run, _ = run_toy(tmp_path / "alone", recipe)

    pipeline, root = recipe.pipeline(), Root(str(tmp_path / "alone"))
    plans = pipeline.plan(root.store)
    nodes = {n: NodeProgress(len(p.shards), p.items) for n, p in plans.items()}
    work = Work(run, root.store, plans, Progress(nodes), 0.5)
    assert not work.quarantine.by_node()
    digests = {p.digest for plan in plans.values() for p in plan.shards}
    work._receipt(Receipt("numbers", "s000", plans["numbers"].shards[0].digest, "made", 4))
    assert work._account(digests) == digests
    assert {k: [f.key for f in v] for k, v in work.quarantine.by_node().items()} == {
        "numbers": ["n/0/s002-1"], "double": ["n/0/s002-1"], "total": ["n/0/s002-1"]
    }  # fmt: skip
    assert nodes["numbers"].done + nodes["numbers"].hits == 3 == nodes["double"].hits


KILLED = """
import sys, time
sys.path[:0] = [{platform!r}, {root!r}]
from tests.unit.test_twin_drivers import Sharing, Slow, run_toy
print("begun", flush=True)
run_toy({place!r}, Sharing())
"""


def test_the_work_of_a_killed_driver_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "begun", [])
    monkeypatch.setattr(Slow, "leave", threading.Event())
    code = KILLED.format(platform=str(PLATFORM), root=str(PLATFORM.parent), place=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    leases = tmp_path / "store" / ".leases"
    while not (leases.is_dir() and list(leases.iterdir())):
        time.sleep(0.05)
    process.kill()
    process.wait()
    Slow.leave.set()
    run, _ = run_toy(tmp_path, Sharing())
    assert run.status()["state"] == "finished" and not list(leases.iterdir())


def test_a_commit_that_comes_second_changes_nothing(tmp_path):
    """A driver that was believed dead goes on to its end: what was committed meanwhile stays as it is."""
    recipe = Toy()
    run, _ = run_toy(tmp_path, recipe)
    store = Root(str(tmp_path)).store
    plan = recipe.pipeline().plan(store)["total"]
    late = tmp_path / "late"
    late.mkdir()
    (late / "total.json").write_text("0")
    task = Task("total", plan.shards[0].shard, plan.shards[0].digest, plan.shards[0].path or "", ())
    _commit(task=task, store=store, output=str(late), metrics={"total": 0})
    folder = Sealed(store, plan.shards[0].path or "")
    folder.demand()
    assert folder.read_json("total.json") != 0


def test_an_interrupted_wait_harms_nobody(tmp_path, monkeypatch):
    recipe = replace(Toy(), seed=3)
    run, _ = run_toy(tmp_path, recipe)
    with lease.Leases(run.place) as holder:
        assert holder.take(run.name)

        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(lease.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path, recipe)
    assert run.status()["state"] == "finished" and run.damage() == []

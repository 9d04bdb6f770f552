"""The actor pool: the local runner's bytes, chains carried by one actor, and processes that die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from diffadapt.core.store import Store
from diffadapt.orchestrate import pool
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from tests.ray.harness import contents, run
from tests.ray.toy import Child, Source, lines, map_pipeline


def _local(pipeline, root: Path) -> dict[str, str]:
    runner = LocalRunner(ExecutionConfig(device="cpu"))
    runner.prepare()
    assert not run(pipeline, root, runner).failed()
    return contents(root)


def test_same_bytes_as_the_local_runner_and_children_follow_their_parents(
    ray_runner: RayRunner, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    pipeline = map_pipeline(Source(shards=10, sleep=0.05, side_log=str(log)), Child(side_log=str(log)))
    quiet = map_pipeline(Source(shards=10), Child())
    plan = pipeline.plan(Store(str(tmp_path / "ray")))
    outcome = run(pipeline, tmp_path / "ray", ray_runner)
    planned = sorted(f"{n}/{p.shard.key}" for n, node in plan.items() for p in node.shards)
    assert sorted(outcome.made()) == planned and len(outcome.receipts) == len(planned)
    assert contents(tmp_path / "ray") == _local(quiet, tmp_path / "local")
    per_process = defaultdict(list)
    for stage, key, pid, _ in lines(log):
        per_process[pid].append((stage, key))
    assert len(per_process) == 2
    for made in per_process.values():
        assert made == [pair for _, key in made[::2] for pair in (("source", key), ("child", key))]
    # A second run finds everything in the store and asks for nothing.
    assert run(pipeline, tmp_path / "ray", ray_runner).receipts == []


def test_a_failing_shard_is_reported_and_the_others_are_made(ray_runner: RayRunner, tmp_path: Path) -> None:
    outcome = run(map_pipeline(Source(shards=4, fail="s0002"), Child()), tmp_path, ray_runner)
    (failed,) = outcome.failed()
    assert (failed.node, failed.key) == ("source", "s0002")
    assert failed.error == "DataError: The shard s0002 cannot be made: it is told to fail."
    assert len(outcome.made()) == 6


@pytest.mark.slow
def test_a_process_that_dies_once_costs_one_shard(ray_runner: RayRunner, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        pool, "MAX_BUNDLES", 2
    )  # several chains travel together, and are given again together
    log = tmp_path / "log"
    pipeline = map_pipeline(
        Source(shards=10, sleep=0.05, side_log=str(log), die_once="s0003"), Child(side_log=str(log))
    )
    outcome = run(pipeline, tmp_path / "ray", ray_runner)
    assert not outcome.failed()
    assert contents(tmp_path / "ray") == _local(map_pipeline(Source(shards=10), Child()), tmp_path / "local")
    begun = Counter(key for stage, key, *_ in lines(log) if stage == "source")
    assert begun == {**{f"s{i:04d}": 1 for i in range(10)}, "s0003": 2}


def test_a_shard_that_always_kills_its_process_is_named_and_does_not_loop(
    ray_runner: RayRunner, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    pipeline = map_pipeline(Source(shards=5, side_log=str(log), die_always="s0001"))
    outcome = run(pipeline, tmp_path / "ray", ray_runner)
    (failed,) = outcome.failed()
    assert failed.key == "s0001" and "ended 3 times while it made source s0001" in failed.error
    assert "\n" not in failed.error
    assert len(outcome.made()) == 4
    assert Counter(key for _, key, *_ in lines(log))["s0001"] == 3


def test_a_killed_worker_process_is_replaced(ray_runner: RayRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pipeline = map_pipeline(Source(shards=8, sleep=0.3, side_log=str(log)))
    victims = []

    def kill() -> None:
        while len(lines(log)) < 4:
            time.sleep(0.02)
        victims.append(int(lines(log)[-1][2]))
        os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = run(pipeline, tmp_path / "ray", ray_runner)
    killer.join()
    assert victims and not outcome.failed()
    assert contents(tmp_path / "ray") == _local(map_pipeline(Source(shards=8)), tmp_path / "local")
    begun = Counter(key for _, key, *_ in lines(log))
    assert sum(begun.values()) <= 8 + 1


@pytest.mark.slow
def test_a_process_that_stands_still_is_replaced_and_one_that_is_slow_is_not(
    ray_runner: RayRunner, tmp_path: Path, monkeypatch, caplog
) -> None:
    """The slow shard takes longer than one may stand still, and gets on all the time."""
    monkeypatch.setattr(pool, "STILL_SECONDS", 5.0)
    monkeypatch.setattr(pool, "LOOKS", 20)
    log = tmp_path / "log"
    pipeline = map_pipeline(
        Source(shards=4, side_log=str(log), stand="s0001", slow="s0002", slow_seconds=9.0)
    )
    outcome = run(pipeline, tmp_path / "ray", ray_runner)
    assert not outcome.failed() and len(outcome.made()) == 4
    begun = Counter(key for _, key, *_ in lines(log))
    assert begun == {"s0000": 1, "s0001": 2, "s0002": 1, "s0003": 1}
    assert "stood still for 5 s while it made source s0001" in caplog.text

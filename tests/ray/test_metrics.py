"""What Prometheus reads from a node: every receipt of a run once, hits, failures and trials; and what
recording costs."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from diffadapt.core.artifact import Failure, Receipt
from diffadapt.orchestrate import metrics
from diffadapt.orchestrate.connection import Connection
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.runner import ExecutionConfig
from tests.ray.harness import run
from tests.ray.toy import Child, Source, map_pipeline
from tests.unit.corekit import Numbers, PlainRunner, Shifted, Toy, run_toy

LABEL = re.compile(r'(\w+)="([^"]*)"')


@pytest.fixture(scope="module")
def joined() -> Iterator[Connection]:
    """A Ray that reports every 0.3 seconds instead of every ten."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_metrics_report_interval_ms", "300")
    connection = Connection(ExecutionConfig(device="cpu"))
    connection.open()
    yield connection
    connection.close()
    patch.undo()


def scrape() -> dict[tuple, float]:
    """(name, labels of ours) -> value, of every series of ours at this node's metrics port."""
    node = ray.nodes()[0]
    with urllib.request.urlopen(
        f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10
    ) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[tuple, float] = {}
    for line in lines:
        if line.startswith("ray_diffadapt_"):
            labels = {k: v for k, v in LABEL.findall(line) if k in ("stage", "status", "device", "le")}
            key = (line.partition("{")[0], *sorted(labels.items()))
            found[key] = found.get(key, 0.0) + float(line.rpartition(" ")[2])
    return found


def wait_for(*keys: tuple, seconds: float = 30.0) -> dict[tuple, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = scrape()
        if all(k in found for k in keys):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{keys} are not exported; there are {sorted(found)}")


def test_a_run_and_a_trial_are_exported(joined, tmp_path: Path):
    runner = RayRunner(ExecutionConfig(device="cpu", actors=2))
    outcome = run(map_pipeline(Source(shards=5, rows=3, fail="s0002"), Child()), tmp_path, runner)
    runner.existing({"child": 6, "source": 0})
    metrics.trial_ended("finished")
    metrics.record(
        Receipt(
            "synth.amazon-webcam@3f9c",
            "k",
            "d",
            "made",
            7,
            (Failure("a", "broken"), Failure("b", "broken")),
            42.0,
            device="cpu",
            devices=2,
        )
    )
    assert len(outcome.failed()) == 1
    source, child = ("stage", "source"), ("stage", "child")
    seen = wait_for(("ray_diffadapt_trials_total", ("status", "finished")))
    total = "ray_diffadapt_shards_total"
    assert seen[total, source, ("status", "made")] == 4 and seen[total, source, ("status", "failed")] == 1
    assert seen[total, child, ("status", "made")] == 4 and seen[total, child, ("status", "hit")] == 6
    assert (total, source, ("status", "hit")) not in seen
    assert seen["ray_diffadapt_images_total", source] == 12
    assert (
        seen["ray_diffadapt_images_total", ("stage", "synth")] == 7
        and seen["ray_diffadapt_quarantined_total", ("stage", "synth")] == 2
    )
    cpu = ("device", "cpu")
    assert seen["ray_diffadapt_shard_seconds_count", cpu, source] == 4
    assert seen["ray_diffadapt_device_seconds_total", cpu, ("stage", "synth")] == 84.0  # two devices
    assert seen["ray_diffadapt_shard_seconds_bucket", cpu, ("le", "30.0"), ("stage", "synth")] == 0
    assert seen["ray_diffadapt_shard_seconds_bucket", cpu, ("le", "60.0"), ("stage", "synth")] == 1


def test_recording_costs_microseconds(joined):
    receipts = [Receipt("cost", str(i), str(i), "made", 64, (), 2.0, device="cpu") for i in range(2000)]
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        for receipt in receipts:
            metrics.record(receipt)
        taken.append((time.perf_counter() - start) / len(receipts))
    assert min(taken) < 500e-6  # measured: 10 microseconds; a receipt stands for seconds to minutes of work


def test_metrics_never_end_a_run(joined, monkeypatch):
    class Broken:
        def __init__(self, *args):
            raise RuntimeError("no metrics agent")

    monkeypatch.setattr("ray.util.metrics.Counter", Broken)
    metrics._recorder.cache_clear()
    passed = []
    receipt = Receipt("source", "k", "d", "made", 3)
    metrics.counted(passed.append)(receipt)
    metrics._recorder.cache_clear()
    assert passed == [receipt]


def test_without_ray_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(metrics, "_recorder", lambda series: pytest.fail("there is no Ray to tell"))
    metrics.record(Receipt("source", "k", "d", "made", 3))
    metrics.trial_ended("failed")


@pytest.fixture
def recorded(monkeypatch) -> list[tuple]:
    calls: list[tuple] = []
    monkeypatch.setattr(
        metrics,
        "_safely",
        lambda series, value, labels: value and calls.append((series.name, value, *labels.values())),
    )
    return calls


def test_what_a_trial_makes_in_its_process_is_recorded(recorded, tmp_path: Path):
    runner = metrics.CountedRunner(PlainRunner())
    run_toy(tmp_path, Toy(numbers=Numbers(shards=2, rows=4)), runner)
    shards = [c for c in recorded if c[0] == "diffadapt_shards_total"]
    assert sorted(shards) == [
        ("diffadapt_shards_total", 1, n, "made") for n in ("double", "double", "numbers", "numbers", "total")
    ]
    recorded.clear()
    run_toy(
        tmp_path,
        Shifted(numbers=Numbers(shards=2, rows=4)),
        metrics.CountedRunner(PlainRunner()),
        name="more",
    )
    assert ("diffadapt_shards_total", 2, "double", "hit") in recorded and (
        "diffadapt_images_total",
        4,
        "shift",
    ) in recorded
    assert runner.name == "plain"


def test_the_end_of_a_trial_is_recorded_and_passed_on(recorded):
    passed = []
    result = SimpleNamespace(status="stopped")
    metrics.counted_trials(passed.append)(result)
    assert recorded == [("diffadapt_trials_total", 1, "stopped")] and passed == [result]


def test_names_follow_prometheus_rules():
    for series in metrics.ALL:
        assert re.fullmatch(r"diffadapt_[a-z_]+", series.name) and series.description.endswith(".")
        assert series.name.endswith("_total") == (series.kind == "counter")

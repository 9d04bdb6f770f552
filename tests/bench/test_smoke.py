"""Every benchmark runs at the smallest size and gives numbers; the counted work is the published one. Nothing
is timed here."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.bench.__main__ import benchmark, main
from tests.bench.metric import Metric
from tests.bench.networks import PUBLISHED, TINY, count_operations

CPU = torch.device("cpu")
SIGNED = ("overhead", "time between", " less ")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name",
    [
        "synthesis",
        "storage",
        "training",
        "host",
        "ui",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("alignment", "transfer", "runners")),
    ],
)
def test_it_returns_positive_numbers(name):
    report = benchmark(name, TINY, CPU, "fp32")
    assert len(report.metrics) >= 5
    for metric in report.metrics:
        assert math.isfinite(metric.value), metric
        assert metric.value > 0 or any(word in metric.name for word in SIGNED), metric
        assert metric.reached is None, "a target must not be judged at this size"


@pytest.mark.slow
def test_projection_says_accuracy_cost_and_the_difference_to_published_sda(tmp_path):
    from tests.bench.projection import MENDED, SMOKE, projection

    report = projection(SMOKE, str(tmp_path))
    found = {m.name: m for m in report.metrics}
    assert {"SDA: accuracy", "SDA (one step, 1 call): accuracy", f"{MENDED}: against SDA"} <= set(found)
    assert all(math.isfinite(m.value) and m.target is None for m in report.metrics)
    assert "1 passes" in found["SDA (one step, 1 call): accuracy"].note
    assert any(line.startswith("level of one-step, by seed") for line in report.conditions)
    assert projection(SMOKE, str(tmp_path)).metrics == report.metrics, "served from what was made"


def test_differences_are_paired_by_digit():
    from tests.bench.projection import Row, paired

    base = Row({s: {f"fog/5/{i}": False for i in range(4)} for s in (0, 1)})
    better = Row({s: {f"fog/5/{i}": i < 2 for i in range(4)} for s in (0, 1)})
    mean, error, by_seed = paired(better, base)
    assert (mean, by_seed) == (50.0, [50.0, 50.0]) and error == pytest.approx(100 / 3**0.5 / 2)
    assert paired(base, base)[:2] == (0.0, 0.0)


def test_half_precision_stays_within_a_grey_level_on_real_digits():
    report = benchmark("accuracy", TINY, CPU, "fp32")
    assert [m.name for m in report.metrics] == [
        "digits: mean difference, bf16 against fp32",
    ]
    assert all(0 < m.value and m.reached for m in report.metrics)


def test_the_work_counted_is_that_of_the_published_networks():
    count = count_operations(PUBLISHED)
    # GFLOP measured on the authors' networks; ours embeds the time anew in each block, which adds under 0.1%.
    assert count.dit == pytest.approx(237.2e9, rel=1e-3)
    assert count.decode == pytest.approx(622e9, rel=1e-3)
    assert count.adm == pytest.approx(2239.7e9, rel=1e-4)
    assert count.adm_guided == pytest.approx(4491.4e9, rel=1e-4)


def test_the_command_writes_json_and_names_the_nearest_benchmark(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["storage", "--size", "tiny", "--device", "cpu", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["machine"]["device"] == "cpu" and found["size"] == "tiny"
    assert {m["name"] for m in found["benchmarks"]["storage"]["metrics"]} >= {"storage: commit of a shard"}
    with pytest.raises(SystemExit):
        main(["storag"])
    assert "Did you mean 'storage'?" in capsys.readouterr().err


def test_a_missed_target_is_called_missed():
    assert Metric("m", 0.4, "", 0.5).reached is False and "MISSED" in Metric("m", 0.4, "", 0.5).line()
    assert Metric("m", 0.02, "", 0.03, "lower").reached is True

"""GPU nodes that come from zero when there is work and go when there is none, with Ray's own autoscaler and
its fake provider."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from tests.fault.node_loss import chains_and_fits
from tests.fault.nodes import STORE_BYTES, Nodes
from tests.fault.processes import Driver
from tests.ray.harness import contents, run
from tests.ray.toy import lines

WORK = {"shards": 16, "sleep": 2.0, "fits": 1, "steps": 10, "step_seconds": 0.05}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_come_from_zero_and_go(tmp_path: Path, record_property) -> None:
    gpu = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}, "max_workers": 2}
    (tmp_path / "nodes").mkdir()
    with Nodes(tmp_path / "nodes", namespaces=False) as cluster:
        cluster.start(coming={"gpu": gpu})
        output = tmp_path / "out"
        options = {"address": cluster.address, "root": str(tmp_path), "work": WORK}
        with Driver(options, output, "tests/fault/autoscaling.py", prefix=cluster.head.prefix) as driver:
            assert driver.wait(400) == 0, output.read_text()
    told = [json.loads(line) for line in output.read_text().splitlines() if line.startswith('{"what"')]
    assert told[0] == {"what": "nodes", "living": 1, "possible": [1.0, 1.0]}
    refusals = [t for t in told if t["what"] == "refused"]
    for refusal, flag in zip(
        refusals,
        ("--execution.actors 3", "--execution.gpus-per-actor 2", "--execution.train-workers 3"),
        strict=True,
    ):
        assert (
            refusal["error"]
            and flag in refusal["error"]
            and "that the autoscaler can add" in refusal["error"]
        )
        assert refusal["seconds"] < 30
    (done,) = [t for t in told if t["what"] == "done"]
    assert (done["device"], done["failed"]) == ("cuda", [])
    counts = [t["count"] for t in told if t["what"] == "workers"]
    assert counts[0] == 0 and max(counts) == 2 and counts[-1] == 0
    assert len({words[2] for words in lines(tmp_path / "log") if words[0] == "source"}) == 2, (
        "both nodes had a share of the shards"
    )
    begun = [words[:2] for words in lines(tmp_path / "log") if words[0] in ("source", "child")]
    assert len(begun) == 2 * WORK["shards"]
    local = LocalRunner(ExecutionConfig(device="cpu"))
    local.prepare()
    run(chains_and_fits("", **{**WORK, "sleep": 0.0, "step_seconds": 0.0}), tmp_path / "local", local)
    assert contents(tmp_path / "store") == contents(tmp_path / "local")
    course = [(t["seconds"], t["count"]) for t in told if t["what"] == "workers"]
    record_property("workers", course)
    print(f"\nworkers over time (seconds, count): {course}; work done after {done['seconds']} s")

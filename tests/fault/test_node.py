"""A node of the cluster that disappears, with no other to take its place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from tests.fault.processes import Driver
from tests.ray.harness import contents, run
from tests.ray.toy import Child, Source, lines, map_pipeline


@pytest.mark.slow
def test_the_rest_of_the_cluster_finishes_what_a_lost_node_had(tmp_path: Path) -> None:
    log, output = tmp_path / "log", tmp_path / "out"
    options = {"root": str(tmp_path / "store"), "log": str(log), "shards": 12}
    with Driver(options, output, "tests/fault/node_loss.py") as driver:
        assert driver.wait() == 0, output.read_text()
        assert driver.gone_within(20) == []
    assert json.loads(output.read_text().splitlines()[-1]) == {"killed": True, "failed": []}
    local = LocalRunner(ExecutionConfig(device="cpu"))
    local.prepare()
    run(map_pipeline(Source(shards=12), Child()), tmp_path / "local", local)
    assert contents(tmp_path / "store") == contents(tmp_path / "local")
    begun = Counter((stage, key) for stage, key, *_ in lines(log))
    assert len(begun) == 24 and sum(begun.values()) <= 24 + 1

"""A whole SDA run on the device: everything is made, and generated images equal the CPU's within one
level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffadapt.core.runs import Root
from diffadapt.data.image import decode
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from tests.tiny import tiny_sda

GENERATED = ("synth", "aligned", "projected")


def run(folder, device: str, **changes):
    recipe = tiny_sda(**changes)
    recipe = replace(recipe, execution=replace(recipe.execution, device=device))
    root, pipeline = Root(str(folder)), recipe.pipeline()
    finished = drive("tiny", recipe, pipeline, root, lambda: LocalRunner(recipe.execution))
    return root, pipeline.plan(root.store), finished


def test_tiny_sda_on_the_device(tmp_path, device):
    root, plans, finished = run(tmp_path / "device", device.type)
    scores = [s for s in finished.scores() if s.metric == "top1"]
    assert {"Source", "DiffPure", "MEMO", "Tent", "DDA", "SDA"} <= {s.method for s in scores}
    assert all(0 <= s.value <= 100 and s.images > 0 for s in scores)
    assert finished.status()["state"] == "finished" and not finished.has("quarantine.jsonl")
    again = finished.root.store.header(plans["aligned"].shards[0].path)
    assert again == (plans["aligned"].shards[0].shard.items, [])


@pytest.mark.parametrize("node", GENERATED)
def test_generated_images_equal_the_cpus(device, node, both_runs):
    (a, plans), (b, other) = both_runs
    assert [p.digest for p in plans[node].shards] == [p.digest for p in other[node].shards], (
        "a device is not part of an identity"
    )
    for p in plans[node].shards:
        left, right = a.store.load(p.path), b.store.load(p.path)
        assert left.column("key") == right.column("key") and left.column("seed") == right.column("seed")
        for one, two in zip(left.column("image"), right.column("image"), strict=True):
            difference = np.abs(
                decode(one["bytes"], 1, "a").astype(int) - decode(two["bytes"], 1, "b").astype(int)
            )
            assert difference.max() <= 1


@pytest.fixture(scope="module")
def both_runs(tmp_path_factory):
    runs = []
    for name in ("cuda", "cpu"):
        root, plans, _ = run(
            tmp_path_factory.mktemp(name), name, methods=("source", "dda", "sda"), controls=(), figures=False
        )
        runs.append((root, plans))
    return runs

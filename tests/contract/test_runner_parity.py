"""The local runner and Ray make the same: equal manifests, equal scores, equal rows in every shard."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("ray")

from diffadapt.core.runs import Root, Run  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from diffadapt.systems.sda.recipe import SDA  # noqa: E402
from tests.tiny import tiny_sda  # noqa: E402


def recipe() -> SDA:
    """tiny_sda with fewer denoising steps: every stage, method and control is in it."""
    full = tiny_sda()
    return replace(
        full,
        align=replace(full.align, respacing=5, start=1),
        diffpure=replace(full.diffpure, respacing=5, start=1),
        synth=replace(full.synth, steps=2),
        target=replace(full.target, data=replace(full.target.data, limit_per_class=1, block=5)),
    )


def small() -> SDA:
    return replace(recipe(), methods=("source", "sda"), controls=(), figures=False)


@pytest.mark.parametrize(
    "recipe", [small, pytest.param(recipe, marks=pytest.mark.slow)], ids=["small", "all"]
)
def test_tiny_sda_on_both_runners(tmp_path, recipe):
    def go(root: Path, runner) -> Run:
        return drive("tiny", recipe(), recipe().pipeline(), Root(str(root)), lambda: runner)

    torch.set_num_threads(1)
    execution = recipe().execution
    local = go(tmp_path / "local", LocalRunner(execution))
    ray = go(
        tmp_path / "ray", RayRunner(replace(execution, runner="ray", actors=1 if recipe is small else 2))
    )
    assert local.name == ray.name
    assert json.loads(ray.read("execution.json"))["runner"] == "ray"
    assert ray.manifest() == local.manifest()
    assert ray.scores() == local.scores() and len(local.scores()) >= 5
    ours, theirs = Root(str(tmp_path / "local")).store, Root(str(tmp_path / "ray")).store
    differing = []
    for plan in recipe().pipeline().plan(ours).values():
        for p in plan.shards:
            if p.path and not plan.stage.fit_stage and ours.read_bytes(p.path) != theirs.read_bytes(p.path):
                differing.append(p.path)
    assert differing == []

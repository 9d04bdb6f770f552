"""A run behind HTTP on a real Ray Serve, with two replicas of which one is killed under load."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from diffadapt.core.runs import Root  # noqa: E402
from diffadapt.systems.answers import Opening  # noqa: E402
from tests.bench.serving import kill_one, load, pictures, served  # noqa: E402
from tests.tiny import tiny_sda  # noqa: E402


@pytest.mark.slow
def test_a_killed_replica_loses_no_request(tmp_path):
    from dataclasses import replace

    from diffadapt.run.drive import drive
    from diffadapt.run.local import LocalRunner

    recipe = replace(tiny_sda(), controls=(), methods=("source", "sda"), figures=False)
    root = Root(str(tmp_path))
    run = drive("small", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))
    images = pictures(120)
    wanted = {row["path"]: row["label"] for row in Opening(str(tmp_path), run.name)()(images)}
    with served(str(tmp_path), run.name, "--replicas", "2") as (url, driver):
        found = asyncio.run(load(url, images, 16, {30: lambda: kill_one(driver, "Models")}))
    assert found.statuses == {200: 120}  # not one had to be sent again
    assert {name: label for name, (label, _) in found.answers.items()} == wanted

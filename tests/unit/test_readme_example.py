"""The example of platform/README.md is taken from the page and run: what a reader copies works."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffadapt.stages  # noqa: E402
import diffadapt.systems  # noqa: E402
from diffadapt.core import recipes
from diffadapt.core.runs import Root  # noqa: E402
from diffadapt.data.image import decode  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from diffadapt.systems.sda.recipe import SDA  # noqa: E402
from tests.tiny import tiny_sda  # noqa: E402
from tests.unit.readmekit import blocks  # noqa: E402

MODULES = ("diffadapt.stages.sharpen", "diffadapt.systems.sharpened")


def files() -> dict[str, str]:
    """Path -> code of the files of the complete example."""
    return {p: code for p, code in blocks().items() if p.startswith(("platform/", "pipelines/"))}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The example's files beside the package, found as if they were in it."""
    for path, code in files().items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    for package, folder in ((diffadapt.stages, "stages"), (diffadapt.systems, "systems")):
        monkeypatch.setattr(
            package, "__path__", [*package.__path__, str(tmp_path / "platform" / "diffadapt" / folder)]
        )
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(tmp_path / "pipelines"))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def small(recipe):
    """The example's recipe at the size of the tests."""
    tiny = tiny_sda(methods=("source", "sda"), controls=(), figures=False)
    return replace(recipe, **{f.name: getattr(tiny, f.name) for f in fields(SDA)})


def run(recipe, root: Root):
    return drive("sharpened", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))


def test_the_example_is_short():
    mine = files()
    assert set(mine) == {
        "platform/diffadapt/stages/sharpen.py",
        "platform/diffadapt/systems/sharpened.py",
        "pipelines/sharpened.py",
    }
    assert sum(bool(line.strip()) for code in mine.values() for line in code.splitlines()) < 60


def test_the_example_runs_as_it_is_written(checkout):
    assert (
        recipes.recipes()["sharpened"].summary
        == "The quickstart with its aligned images sharpened before fine-tuning."
    )
    recipe = small(recipes.load("sharpened"))
    root = Root(str(checkout / "data"))
    finished = run(recipe, root)
    assert "SDA" in {s.method for s in finished.scores()}
    plans = recipe.pipeline().plan(root.store)
    assert plans["finetuned"].inputs[0] == "sharpened"
    for before, after in zip(plans["aligned"].shards, plans["sharpened"].shards, strict=True):
        aligned, sharpened = root.store.load(before.path), root.store.load(after.path)
        assert aligned.column("key") == sharpened.column("key") and aligned.column(
            "label"
        ) == sharpened.column("label")
        a, b = (
            np.stack([decode(i["bytes"], 1, "k").astype(float) for i in rows.column("image")])
            for rows in (aligned, sharpened)
        )
        assert gradient(b) > 1.1 * gradient(a)


def test_another_strength_remakes_only_what_follows(checkout):
    first = small(recipes.load("sharpened"))
    second = replace(first, sharpen=replace(first.sharpen, percent=120))
    store = Root(str(checkout / "data")).store
    a, b = first.pipeline().plan(store), second.pipeline().plan(store)
    changed = {n for n in a if [p.digest for p in a[n].shards] != [p.digest for p in b[n].shards]}
    assert changed == {"sharpened", "finetuned", "finetuned_on_projected"}


def gradient(images: np.ndarray) -> float:
    return float(np.abs(np.diff(images, axis=1)).mean())

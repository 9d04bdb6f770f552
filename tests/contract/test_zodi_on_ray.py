"""ZoDi on Ray: the local runner's manifest, scores and bytes; a generator that is trained on the scenes;
training on two workers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("ray")

from diffadapt.core.runs import Root, Run  # noqa: E402
from diffadapt.diffusion.translation.config import QualityConfig  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from tests.diffusionkit import tiny_scene_pipeline  # noqa: E402
from tests.tiny_scenes import doubtful, tiny_detection, tiny_zodi  # noqa: E402


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights") / "sd")


def go(root: Path, recipe, **execution) -> Run:
    """``recipe`` to its end: on Ray where ``execution`` says how wide, else locally."""
    torch.set_num_threads(1)
    config = replace(recipe.execution, **execution)
    runner = RayRunner(replace(config, runner="ray")) if execution else LocalRunner(config)
    return drive("tiny", recipe, recipe.pipeline(), Root(str(root)), lambda: runner)


def differing(recipe, one: Path, other: Path) -> list[str]:
    """Names in the store whose bytes differ, those of fits included; every shard is compared."""
    names = []
    for plan in recipe.pipeline().plan(Root(str(one)).store).values():
        for p in (p for p in plan.shards if p.path):
            place = one / "store" / p.path
            names += (
                sorted(f.relative_to(one) for f in place.rglob("*") if f.is_file())
                if plan.stage.fit_stage
                else [place.relative_to(one)]
            )
    assert len(names) > 6
    return [str(name) for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


@pytest.mark.slow
def test_both_runners_make_the_same(tmp_path, generator):
    """Two actors, one fit, images that are tried again; the source model's opinion and the rest are in the
    slow ones."""
    recipe = tiny_zodi(
        generator, methods=("zodi",), quality=QualityConfig(edges=0.085, retries=1), estimate=0, figures=False
    )
    same(tmp_path, replace(recipe, source_test=replace(recipe.source_test, path="")), 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["all", "detection", "trained"])
def test_both_runners_make_the_same_of_everything(tmp_path, generator, what):
    if what == "detection":
        return same(tmp_path, tiny_detection(generator), 2)
    recipe = replace(
        doubtful(tiny_zodi(generator)),
        seeds=(0, 1),
        variants=("img2img", "edit_friendly", "layout", "relight"),
    )
    recipe = replace(
        recipe, quality=replace(recipe.quality, consistency=0.01, edges=0.05, retry="seed")
    )  # layouts alone know no strength
    if what == "trained":
        few = {"size": 32, "batch_size": 4}
        layout = replace(
            recipe.layout,
            **few,
            crop=(32, 32),
            steps=6,
            vae=replace(recipe.layout.vae, steps=6, batch_size=4),
        )
        transfer = replace(recipe.transfer, weights="train", size=32)
        recipe = tiny_zodi(
            generator,
            methods=("source_only", "zodi"),
            layout=layout,
            transfer=transfer,
            appearances=("night",),
        )
    same(tmp_path, recipe, 2)


def same(tmp_path: Path, recipe, actors: int) -> None:
    local, ray = go(tmp_path / "local", recipe), go(tmp_path / "ray", recipe, actors=actors)
    assert json.loads(ray.read("execution.json"))["runner"] == "ray"
    assert (
        ray.name == local.name
        and ray.manifest() == local.manifest()
        and ray.scores() == local.scores()
        and local.scores()
    )
    assert json.loads(ray.read("warnings.json")) == json.loads(local.read("warnings.json"))
    assert differing(recipe, tmp_path / "local", tmp_path / "ray") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_training_workers_make_the_same_pairs_and_nearly_the_same_weights(tmp_path, generator):
    recipe = tiny_zodi(generator, methods=("source_only", "zodi"), estimate=0, figures=False)
    # Dropout is drawn by each worker for its own images; everything else is the global batch's.
    recipe = replace(
        recipe,
        segmenter=replace(recipe.segmenter, dropout=0.0),
        training=replace(recipe.training, batch_size=4, sync_batch_norm=True),
    )
    one, two = go(tmp_path / "one", recipe), go(tmp_path / "two", recipe, actors=1, train_workers=2)
    assert two.manifest()["nodes"] == one.manifest()["nodes"], "the width is no part of what is made"
    ours, theirs = (
        load_file(f"{one.url}/model/model.safetensors"),
        load_file(f"{two.url}/model/model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    largest = max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)
    print("largest deviation of a weight", largest)
    assert largest < 1e-3
    assert json.loads(two.read("model/segmenter.json"))["extra"]["pairs"] == 6

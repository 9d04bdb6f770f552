"""SDA for segmenters: the ensemble of two maps of probabilities, images that change while label maps stay,
and the graph of the recipe; a whole run is marked slow."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffadapt.core import recipes
from diffadapt.core.artifact import Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.core.stage import WorkContext
from diffadapt.core.store import Store
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.metrics.ensemble import ensemble
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.scene_images import CorruptScenes, _SceneImages
from diffadapt.stages.scenes import Scenes
from diffadapt.systems.sda_scenes.recipe import CONTROLS, SDASegmentation
from diffadapt.tasks.segmentation.ensemble import together
from tests.tiny_scenes import streets


def tiny(**changes) -> SDASegmentation:
    recipe = recipes.load("sda/segmentation")
    few = dict(epochs=1, batch_size=2)
    return replace(
        recipe,
        source=streets("train", limit=6),
        target=streets("test", limit=4),
        corruptions=("gaussian_noise", "contrast"),
        layout_to_image=replace(recipe.layout_to_image, steps=2, guidance=1.0, images_per_shard=3),
        align=replace(recipe.align, respacing=4, start=1),
        unconditional_fit=replace(
            recipe.unconditional_fit, steps=3, batch_size=4, channels=(16, 16), sample_every=0
        ),
        segmenter=replace(recipe.segmenter, width=8),
        training=replace(recipe.training, **few),
        finetune=replace(recipe.finetune, **few),
        seeds=(0,),
        execution=ExecutionConfig(runner="local", device="cpu", threads=1, trackers=()),
        **changes,
    )


def test_the_ensemble_of_maps_is_that_of_classifiers_pixel_by_pixel():
    first, second = torch.randn(2, 2, 4, 3, 5).mul(3).unbind()
    found = together(first, second)
    assert found.shape == first.shape and torch.allclose(found.sum(1), torch.ones(2, 3, 5))
    pixels = [x.permute(0, 2, 3, 1).reshape(-1, 4).numpy() for x in (first, second, found)]
    assert np.allclose(ensemble(pixels[0], pixels[1]), 2 * pixels[2], atol=1e-5)
    assert torch.equal(together(first, first).argmax(1), first.argmax(1)), "with itself it changes nothing"
    with pytest.raises(ValueError, match="gave"):
        together(first, second[:, :3])


def test_corrupted_scenes_keep_their_label_maps():
    clean = Scenes(streets("test", limit=2), "clean")
    rows = clean.open(WorkContext("cpu")).run(clean.plan({})[0], ())
    stage = CorruptScenes(("contrast",), (5,), size=64)
    shard = Shard("c", {"group": "contrast/5", "corruption": "contrast", "severity": 5}, (), 2)
    made = stage.open(WorkContext("cpu")).run(shard, [rows])
    before, _ = decode_scenes(rows)
    after, failures = decode_scenes(made)
    assert not failures and [s.key[-4:] for s in after] == [s.key[-4:] for s in before]
    assert {s.key[:11] for s in after} == {"contrast/5/"}
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a.annotation, b.annotation) and not np.array_equal(a.image, b.image)


def test_scenes_of_another_size_than_the_unconditional_model_are_set_apart_with_a_sentence():
    clean = Scenes(streets("test", limit=2), "clean")
    rows = clean.open(WorkContext("cpu")).run(clean.plan({})[0], ())
    column = rows.table.schema.get_field_index("image")
    images = rows.column("image")
    small = io.BytesIO()
    Image.new("RGB", (32, 48)).save(small, "PNG")
    images[1] = {"bytes": small.getvalue(), "path": "x.png"}
    field = rows.table.schema.field(column)
    import pyarrow as pa

    rows.table = rows.table.set_column(column, field, pa.array(images, field.type))

    class Through:
        def run(self, shard, inputs):
            return inputs[0]

    made = _SceneImages(Through(), 64).run(Shard("s", {}, (), 2), [rows])
    assert len(made) == 1
    assert [f.reason for f in made.failures] == [
        "it is 48 x 32 pixels, but the unconditional model works on 64 x 64, and a label map must not be"
        " cropped: set image_size to 64."
    ]


def test_the_graph_has_each_row_and_shares_what_rows_share():
    pipeline = tiny().pipeline()
    titles = [r.name for r in pipeline.rows]
    assert titles[:3] == ["Source", "DDA", "SDA"] and set(titles[3:]) == set(CONTROLS.values())
    inputs = {n.name: n.inputs for n in pipeline.nodes}
    assert inputs["dda"] == ("target", "projected", "segmenter")
    assert inputs["sda"] == ("target", "projected", "segmenter", "finetuned")
    assert inputs["finetuned"] == ("aligned", "segmenter")
    assert inputs["nonaligned_model"] == ("synthetic", "segmenter")
    assert inputs["self"] == ("target", "segmenter")
    plans = pipeline.plan(Store("memory://sda-segmentation"))
    assert len({p.digest for plan in plans.values() for p in plan.shards}) == sum(
        len(plan.shards) for plan in plans.values()
    )
    few = replace(tiny(), methods=("source",), controls=()).pipeline()
    assert {n.name for n in few.nodes} == {"source", "clean", "target", "segmenter", "source_on_target"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ("sdaa",)}, "Did you mean 'sda'"),
        ({"seeds": ()}, "at least one"),
        ({"align": AlignConfig(weights="train", respacing=4, start=9)}, "align.start is 9"),
    ],
)
def test_what_does_not_fit_is_said(changes, said):
    with pytest.raises(RecipeError, match=said):
        replace(tiny(), **changes).pipeline().plan(Store("memory://sda-segmentation-wrong"))
    with pytest.raises(RecipeError, match="starts from source images"):
        replace(tiny(), layout_to_image=replace(tiny().layout_to_image, method="img2img")).pipeline()


@pytest.mark.slow
def test_a_whole_run_and_what_is_left_of_it(tmp_path):
    recipe, root = tiny(), Root(str(tmp_path / "root"))
    run = drive("tiny", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))
    scores = [s for s in run.scores() if s.metric == "miou"]
    assert {s.method for s in scores} == {"Source", "DDA", "SDA", *CONTROLS.values()}
    assert {s.group for s in scores} == {"gaussian_noise/5", "contrast/5"}
    assert all(np.isfinite(s.value) and s.images == s.of_images == 4 for s in scores)
    by = {(s.method, s.group): s.value for s in scores}
    assert all(by["Source with itself", g] == by["Source", g] for g in ("gaussian_noise/5", "contrast/5"))
    assert not run.has("quarantine.jsonl") and b"SDA" in run.read("report.html")
    again = drive("tiny", recipe, recipe.pipeline(), root, lambda: pytest.fail("everything is there"))
    assert [s.value for s in again.scores()] == [s.value for s in run.scores()]

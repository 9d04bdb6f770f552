"""Adapt Anything from prompts to an exported model: what a run leaves behind, and what its settings may
change."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.cli import main  # noqa: E402
from diffadapt.core.pipeline import ancestors  # noqa: E402
from diffadapt.core.record import predictions_by_key  # noqa: E402
from diffadapt.core.runs import Root  # noqa: E402
from diffadapt.data.image import encode_png  # noqa: E402
from diffadapt.models.config import ClipConfig  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from diffadapt.tasks.classification.split import read_split  # noqa: E402
from tests.tiny import tiny_adaptation  # noqa: E402
from tests.unit.tinypipelines import stable_diffusion  # noqa: E402


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return stable_diffusion(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(scope="module")
def base(tmp_path_factory, generator):
    """(root, recipe, run) of a finished run."""
    torch.set_num_threads(1)
    root, recipe = Root(str(tmp_path_factory.mktemp("data"))), tiny_adaptation(generator)
    return root, recipe, go(root, recipe)


def go(root: Root, recipe):
    return drive("tiny", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))


def made(run) -> dict[str, int]:
    return json.loads(run.read("execution.json"))["made"]


def test_rows_and_files_of_a_run(base):
    root, recipe, run = base
    methods = [s.method for s in run.scores()]
    assert methods == [
        "Synthetic only",
        "DANN",
        "DANN + FixMatch",
        "Synthetic only + FixMatch",
        "Synthetic only, unfiltered",
        "DANN, unfiltered",
    ]
    table = pq.read_table(io.BytesIO(run.read("predictions.parquet"))).to_pylist()
    assert len(table) == 30 and {"path", "label", "confidence"} <= set(table[0])
    assert all(0 <= row["label"] < 10 and 0 < row["confidence"] <= 1 for row in table)
    validators = json.loads(run.read("validators.json"))
    assert "im" in next(iter(validators["nodes"].values()))
    page = run.read("report.html").decode()
    assert "a photo of the digit" in page and "FixMatch" in page and "sd" in page
    assert json.loads(run.read("warnings.json"))  # chance predictions are a collapse, and a user hears of it


def test_the_model_loads_in_timm_and_predicts_what_the_run_predicted(base, tmp_path):
    import timm

    import diffadapt.models.cifar_resnet  # noqa: F401

    root, recipe, run = base
    folder = f"{run.url}/model"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    table = pq.read_table(io.BytesIO(run.read("predictions.parquet"))).to_pylist()
    plan = recipe.pipeline().plan(root.store)["target"]
    reader = plan.stage.open(None)
    rows = [r for p in plan.shards for r in reader.run(p.shard, ()).table.to_pylist()]
    from diffadapt.data.image import decode

    images = {r["key"].split("/", 2)[2]: decode(r["image"]["bytes"], 1, r["key"]) for r in rows}
    for row in table[:5]:
        x = torch.from_numpy(images[row["path"]]).permute(2, 0, 1)[None].float() / 255
        p = model((x - 0.5) / 0.5).detach().softmax(1)[0]
        assert int(p.argmax()) == row["label"] and float(p.max()) == pytest.approx(
            row["confidence"], abs=1e-5
        )
    folder = tmp_path / "new images"
    folder.mkdir()
    for name, image in list(images.items())[:4]:
        (folder / name.replace("/", "_")).with_suffix(".png").write_bytes(encode_png(image))
    out = tmp_path / "preds.parquet"
    assert (
        main(
            [
                "predict",
                str(folder),
                "--run",
                run.name,
                "--root",
                root.location,
                "--out",
                str(out),
                "--execution.runner",
                "local",
            ]
        )
        == 0
    )
    assert pq.read_table(out).num_rows == 4


def test_the_plan_counts_what_the_run_makes(base, tmp_path):
    from diffadapt.core.plan import summarise

    _, recipe, run = base
    store = Root(str(tmp_path)).store
    planned = {n.name: n.missing for n in summarise(recipe.pipeline().plan(store), store).nodes if n.missing}
    assert planned == made(run)


def test_another_threshold_makes_no_image_and_trains_stage_2_alone(base):
    root, recipe, _ = base
    other = replace(recipe, split=replace(recipe.split, fraction=0.8))
    from diffadapt.core.plan import summarise

    missing = {n.name for n in summarise(other.pipeline().plan(root.store), root.store).nodes if n.missing}
    assert missing and not {
        n
        for n in missing
        if n.split("_")[0] in ("prompts", "synth", "filter", "dann", "source") and "fixmatch" not in n
    }


def test_more_images_a_class_keep_those_that_are_there(base):
    root, recipe, _ = base
    other = replace(recipe, generator=replace(recipe.generator, images_per_class=6))
    from diffadapt.core.plan import summarise

    nodes = {n.name: n for n in summarise(other.pipeline().plan(root.store), root.store).nodes}
    assert (nodes["synth"].items, nodes["synth"].missing_items, nodes["prompts"].missing) == (60, 20, 0)


def test_labels_of_the_target_change_no_model(base, tmp_path, generator):
    """Unlabelled, the same images give the same models and predictions, and no score."""
    root, recipe, run = base
    plan = recipe.pipeline().plan(root.store)["target"]
    reader, folder = plan.stage.open(None), tmp_path / "target"
    folder.mkdir()
    for p in plan.shards:
        for row in reader.run(p.shard, ()).table.to_pylist():
            (folder / row["key"].split("/", 2)[2].replace("/", "_")).with_suffix(".png").write_bytes(
                row["image"]["bytes"]
            )
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(str(i) for i in range(10)))
    unlabelled = replace(
        recipe,
        target=replace(recipe.target, path=str(folder), limit_per_class=None, block=16),
        classes=str(names),
    )
    other = go(root, unlabelled)
    assert other.scores() == []
    assert "validator" in other.read("report.html").decode().lower()
    ours, theirs = (
        sorted(
            (r["path"].replace("/", "_").removesuffix(".png"), r["label"], round(r["confidence"], 4))
            for r in pq.read_table(io.BytesIO(x.read("predictions.parquet"))).to_pylist()
        )
        for x in (run, other)
    )
    assert ours == theirs


def test_cached_features_of_a_frozen_backbone_go_the_whole_way(base, tmp_path):
    root, recipe, run = base
    backbone = replace(
        recipe.backbone, name=f"{run.url}/model", arch=None, frozen=True, weak_views=2, strong_views=1
    )
    split = replace(recipe.split, shares="estimated")
    frozen = go(root, replace(recipe, backbone=backbone, controls=(), held_out=0.25, split=split))
    assert len(frozen.scores()) == 3 and "features" in made(frozen).__str__()
    shares = json.loads(frozen.read("class_shares.json"))
    assert {r["how"] for r in shares["rows"]} <= {"BBSE", "BCTS-MLLS"} and shares["left_out"] == []
    assert len(shares["rows"]) == 3
    assert all(sum(r["estimated"]) == pytest.approx(100, abs=0.2) for r in shares["rows"])
    others = json.loads(frozen.read("other_classes.json"))["rows"]
    assert {r["of"] for r in others} == {10} and others[0]["rule"].startswith("source images")  # one a class
    guessed = json.loads(frozen.read("without_labels.json"))["rows"]
    assert all(r["thresholded confidence"] is not None for r in guessed) and len(guessed) == 3
    import timm

    import diffadapt.models.mlp_head  # noqa: F401

    assert timm.create_model(f"local-dir:{frozen.url}/model", pretrained=True).num_classes == 10


def test_clip_teaches_a_control_without_an_image_made_and_its_features_say_how_varied_they_are(base):
    root, recipe, _ = base
    clip = ClipConfig("embedded:glyphs-clip", ("a photo of the digit {category}",))
    other = replace(recipe, clip=clip, controls=("clip",), figures=False)
    run = go(root, other)
    assert [s.method for s in run.scores()] == [
        "CLIP zero-shot",
        "Synthetic only",
        "DANN",
        "DANN + FixMatch",
        "CLIP zero-shot + FixMatch",
    ]
    pipeline = other.pipeline()
    behind = ancestors(pipeline.nodes, "zero_shot_fixmatch_on_target")
    assert behind == {"target", "zero_shot", "split_zero_shot", "zero_shot_fixmatch"}
    plans = pipeline.plan(root.store)
    split = read_split(f"{root.location}/store/{plans['split_zero_shot'].shards[0].path}")
    asked = predictions_by_key([root.store.load(p.path) for p in plans["zero_shot"].shards])
    assert {k: label for k, (label, _) in split.items()} == {
        k: int(z.argmax()) for k, (_, z) in asked.items()
    }
    took = {e["row"]: e for e in json.loads(run.read("device_hours.json"))["rows"]}
    taught, result = took["CLIP zero-shot + FixMatch"], took["DANN + FixMatch"]
    assert taught["unknown"] == result["unknown"] == 0 and {"synth", "uda", "ssl"} <= set(result["kinds"])
    assert "ssl" in taught["kinds"] and not {"synth", "uda", "prompts"} & set(taught["kinds"])
    (images,) = json.loads(run.read("diversity.json"))["sets"][:1]
    assert images["name"] == "synthetic" and 1 < images["classes"]["4"]["vendi"] < 4
    page = run.read("report.html").decode()
    assert "Should images be generated at all?" in page and "Diversity of the synthetic images" in page

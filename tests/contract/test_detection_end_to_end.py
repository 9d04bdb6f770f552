"""Detection by the same transfer, end to end on procedural streets with a random generator: graph, scores,
pictures, resume, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import check_limits
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.zodi.detection import ZodiDetection
from diffadapt.tasks.detection.config import DetectionTraining
from tests.diffusionkit import tiny_scene_pipeline
from tests.unit.detectionkit import toy


def streets(split: str, condition: str, limit: int) -> SceneConfig:
    return SceneConfig(
        path="embedded:streets", layout="streets", split=split, condition=condition, limit=limit, block=3
    )


def small(weights: str, **more) -> ZodiDetection:
    fields = dict(
        source=streets("train", "day", 6),
        target=streets("test", "night", 4),
        source_test=streets("test", "day", 4),
        transfer=TransferConfig(
            weights=weights,
            controlnet="",
            size=64,
            multiple=16,
            steps=2,
            guidance=1.0,
            palette="own",
            precision="fp32",
        ),
        detector=DetectorConfig(arch="fcos", backbone="tiny", weights="none", size=(64, 64)),
        training=DetectionTraining(epochs=2, batch_size=2, lr=1e-3, optimizer="adamw"),
        execution=ExecutionConfig(device="cpu"),
    )
    return ZodiDetection(**{**fields, **more})


def go(root: Root, recipe: ZodiDetection):
    return drive("detection", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights") / "sd")


def test_the_graph(weights):
    recipe = small(weights, seeds=(0, 1))
    assert from_dict(ZodiDetection, to_dict(recipe)) == recipe
    check_limits(recipe)
    pipeline = recipe.pipeline()
    names = [n.name for n in pipeline.nodes]
    assert names[:5] == ["source", "target", "source_test", "transferred", "quality"] and names[5:8] == [
        "source_only.s0",
        "transferred_only.s0",
        "both.s0",
    ]
    assert [(r.name, r.members, r.metric, r.seed) for r in pipeline.rows][0] == (
        "Source only",
        ("source_only_on_target.s0",),
        "map",
        0,
    )
    assert [r.metric for r in pipeline.rows] == ["map"] * 6 + ["map_source"] * 6
    assert {r.members for r in pipeline.result()} == {
        ("both_on_target.s0",),
        ("both_on_target.s1",),
    } and pipeline.outputs["model"] == "both.s0"
    plans = pipeline.plan(Store("memory://detection"))
    counts = {n: len(p.shards) for n, p in plans.items()}
    assert (
        counts["transferred"] == counts["source"] == 2
        and counts["both_on_target.s1"] == counts["target"] == 2
        and counts["both.s0"] == 1
    )
    other = (
        replace(recipe, training=replace(recipe.training, similarity=0.1))
        .pipeline()
        .plan(Store("memory://detection"))
    )
    forked = {n for n in plans if plans[n].shards[0].digest != other[n].shards[0].digest}
    assert "both.s0" in forked and "source_only.s0" not in forked and "transferred" not in forked
    alone = replace(recipe, methods=("source_only",), seeds=(0,)).pipeline()
    assert [n.name for n in alone.nodes] == [
        "source",
        "target",
        "source_test",
        "source_only",
        "source_only_on_target",
        "source_only_on_source_test",
    ]
    unseen = replace(
        recipe, target=replace(recipe.target, path=""), source_test=replace(recipe.source_test, path="")
    )
    assert not unseen.pipeline().rows and "figures" in unseen.pipeline().outputs


def test_refusals(weights):
    recipe = small(weights)
    for changed, said in (
        (replace(recipe, source=SceneConfig()), "no labelled scenes"),
        (replace(recipe, methods=("bth",)), "methods has no 'bth'. Did you mean 'both'"),
        (replace(recipe, methods=("both", "both")), "'both' twice"),
        (replace(recipe, methods=()), "methods is empty"),
        (replace(recipe, seeds=(0, 0)), "each once"),
        (replace(recipe, quality=QualityConfig(consistency=0.5)), "detection trains none"),
        (replace(recipe, transfer=replace(recipe.transfer, weights="train")), "trains no generator"),
        (replace(recipe, training=replace(recipe.training, seed=3)), "give --seeds 3"),
        (replace(recipe, execution=replace(recipe.execution, train_workers=3)), "cannot share evenly"),
    ):
        with pytest.raises(RecipeError, match=said.replace("?", r"\?")):
            changed.pipeline()


def test_a_run_and_its_report(weights, tmp_path):
    torch.set_num_threads(1)
    root, recipe = Root(str(tmp_path)), small(weights)
    run = go(root, recipe)
    scores = run.scores()
    assert [(s.method, s.metric) for s in scores[:6]] == [
        (m, k)
        for k in ("map", "map_source")
        for m in ("Source only", "Transferred only", "Source + transferred")
    ]
    assert {s.metric for s in scores[6:]} <= {"map50", "ap.car", "ap.pedestrian", "ap.pole"} and "map50" in {
        s.metric for s in scores
    }
    assert all(0 <= s.value <= 100 and s.images == 4 for s in scores) and {
        s.group for s in scores if s.metric == "map"
    } == {"night/0"}
    manifest = run.manifest()
    assert manifest["decisions"]["counts"]["kept"] == 6
    assert all(
        run.has(f)
        for f in (
            "figures/transfers.png",
            "figures/panels.png",
            "model/detector.json",
            "model/model.safetensors",
        )
    )
    page = run.read("report.html").decode()
    assert "Detections on the target" in page and "Source + transferred" in page
    again = go(root, replace(recipe, detector=replace(recipe.detector, score=0.2)))
    made = json.loads(again.read("execution.json"))["made"]
    assert set(made) == {
        f"{m}_on_{w}" for m in ("source_only", "transferred_only", "both") for w in ("target", "source_test")
    } | {"figures"}


def coco(root: Path, count: int, first: int, categories: tuple[str, ...] = ("red", "blue")) -> SceneConfig:
    """Toy scenes as COCO lays them out, with ids that are not in the order of the classes' numbers."""
    (root / "images").mkdir(parents=True)
    instances: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * (i + 1), "name": n} for i, n in enumerate(categories)],
    }
    for i in range(first, first + count):
        image, objects = toy(i)
        (root / "images" / f"{i:03d}.png").write_bytes(encode_png(image))
        instances["images"].append(
            {"id": 100 - i, "file_name": f"{i:03d}.png", "height": image.shape[0], "width": image.shape[1]}
        )
        for o in objects:
            x1, y1, x2, y2 = o["bbox"]
            number = 10 * (categories.index(("red", "blue")[o["category"]]) + 1)
            instances["annotations"].append(
                {
                    "id": len(instances["annotations"]) + 1,
                    "image_id": 100 - i,
                    "category_id": number,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    (root / "annotations.json").write_text(json.dumps(instances))
    return SceneConfig(path=str(root), layout="coco", labels="annotations.json")


def test_coco_in_average_precision_out(tmp_path):
    torch.set_num_threads(1)
    source, target = coco(tmp_path / "source", 10, 0), coco(tmp_path / "target", 5, 20)
    recipe = small(
        "unused", source=source, target=target, source_test=SceneConfig(), methods=("source_only",)
    )
    run = go(Root(str(tmp_path / "data")), recipe)
    assert [(s.metric, s.images) for s in run.scores() if s.metric == "map"] == [("map", 5)]
    assert {s.metric for s in run.scores()} == {"map", "map50", "ap.red", "ap.blue"}
    facts = json.loads(run.read("model/detector.json"))
    assert facts["classes"]["names"] == ["red", "blue"] and facts["diffadapt"]["images"] == 10
    turned = coco(tmp_path / "turned", 2, 30, ("blue", "red"))
    with pytest.raises(
        RecipeError,
        match=(
            "classes of target are not those of the source .'blue' stands where the source has"
            " 'red'.*target.classes"
        ),
    ):
        replace(recipe, target=turned).pipeline()
    table = tmp_path / "classes.csv"
    table.write_text("value,name,red,green,blue\n0,red,255,0,0\n1,blue,0,0,255\n")
    both = replace(
        recipe, source=replace(source, classes=str(table)), target=replace(turned, classes=str(table))
    )
    assert both.pipeline().class_names == ("red", "blue")
    unlabelled = go(Root(str(tmp_path / "data")), replace(recipe, target=replace(target, labels="")))
    assert [s.metric for s in unlabelled.scores()] == []

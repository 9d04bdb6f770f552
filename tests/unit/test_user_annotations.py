"""COCO documents as public tools write them: what is wrong is counted before a training, and stops none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from diffadapt.core.errors import DataError, TrainingError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.stage import WorkContext
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.stages.scenes import Scenes
from tests.unit.corekit import Numbers, PlainRunner, Total, Toy, allowing, run_toy

SQUARE = [4, 20, 28, 20, 28, 44, 4, 44]
BOX = [4, 20, 24, 24]


def coco(root: Path, change=lambda document: None) -> SceneConfig:
    (root / "images").mkdir(parents=True)
    document: dict = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "box"}]}
    for i in range(3):
        (root / "images" / f"{i}.png").write_bytes(encode_png(np.zeros((64, 64, 3), np.uint8)))
        document["images"].append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        entry = {"id": 10 + i, "image_id": i, "category_id": 3, "bbox": BOX, "segmentation": [SQUARE]}
        document["annotations"].append({**entry, "iscrowd": 0})
    change(document)
    (root / "annotations.json").write_text(json.dumps(document))
    return SceneConfig(str(root), layout="coco", labels="annotations.json", images="images")


def first(**changes):
    return lambda document: document["annotations"][0].update(changes)


def read(config: SceneConfig):
    """(what the plan says, scenes by name, failures)."""
    stage = Scenes(config)
    (shard,) = stage.plan({})
    rows = stage.open(WorkContext("cpu")).run(shard, ())
    scenes, failures = decode_scenes(rows)
    return " ".join(stage.notes()), {s.key.split("/")[-1]: s for s in scenes}, failures


@pytest.mark.parametrize(
    "change, clause",
    [
        (first(segmentation=[SQUARE[:-1]]), "7 coordinates, an odd number"),
        (first(segmentation=["abc"]), "no numbers|no list"),
        (first(segmentation="abc"), "neither polygons"),
        (first(segmentation=[[float("nan")] * 8]), "no list of pixels"),
        (first(segmentation={"size": [64, 64], "counts": [1, 2]}), "its mask is damaged"),
        (first(segmentation={"size": [32, 64], "counts": [2048]}), "32 x 64 pixels but the image 64 x 64"),
        (first(bbox=[4, 20, 24, 0]), "24 x 0 pixels and thus has no area"),
        (first(bbox=[1, 2, 3]), "no bbox of four numbers"),
        (first(bbox=None), "no bbox of four numbers"),
        (first(bbox=[float("nan"), 1, 9, 9]), "no four finite numbers"),
        (first(bbox=[100, 100, 9, 9]), "outside the image of 64 x 64"),
        (first(bbox=[1e300, 0, 1e300, 9]), "outside the image"),
        (first(category_id=9), "does not list its category 9"),
        (first(category_id=None), "no category_id"),
    ],
)
def test_a_bad_annotation_is_set_apart_and_its_image_stays(tmp_path, change, clause):
    said, scenes, failures = read(coco(tmp_path, change))
    assert "1 of the 3 annotations" in said and "annotation 10 of image 0.png" in said
    assert re.search(clause, said), said
    assert not failures and set(scenes) == {"0", "1", "2"}
    assert scenes["0"].objects == [] and (scenes["0"].annotation == 255).all()
    assert len(scenes["1"].objects) == 1 and (scenes["1"].annotation == 0).any()


def test_an_annotation_of_an_image_that_is_not_there_is_set_apart(tmp_path):
    said, scenes, _ = read(coco(tmp_path, first(image_id=99)))
    assert "annotation 10 of image 99 (the file does not list this image)" in said and len(scenes) == 3


def test_an_entry_that_is_none_is_set_apart_and_names_may_be_of_the_root(tmp_path):
    def change(document: dict) -> None:
        document["annotations"].append(None)
        for image in document["images"]:
            image["file_name"] = f"images/{image['file_name']}"

    said, scenes, failures = read(coco(tmp_path, change))
    assert "1 of the 4 annotations" in said and len(scenes) == 3 and not failures
    assert all(len(s.objects) == 1 for s in scenes.values())


def test_what_can_be_read_is_read(tmp_path):
    said, plain, _ = read(coco(tmp_path / "plain"))
    assert (
        said == "" and Scenes(coco(tmp_path / "again")).identity() == Scenes(coco(tmp_path / "b")).identity()
    )

    def names(document: dict) -> None:
        for image in document["images"]:
            image["id"] = f"img_{image['id']}"
        for annotation in document["annotations"]:
            annotation["image_id"] = f"img_{annotation['image_id']}"

    for name, change in {"flat": first(segmentation=SQUARE), "names": names}.items():
        said, scenes, failures = read(coco(tmp_path / name, change))
        assert said == "" and not failures
        assert all((scenes[k].annotation == plain[k].annotation).all() for k in plain)
        assert all(scenes[k].objects == plain[k].objects for k in plain)
    said, scenes, _ = read(coco(tmp_path / "point", first(segmentation=[[32.0, 32.0]])))
    assert said == "" and (scenes["0"].annotation == 0).sum() == 24 * 24  # its box


def test_many_are_counted_and_none_left_is_an_error(tmp_path):
    def spoil(document: dict, count: int) -> None:
        document["annotations"] += [{"id": 100 + i, "image_id": 0} for i in range(count)]

    said, _, _ = read(coco(tmp_path / "many", lambda d: spoil(d, 30)))
    assert "30 of the 33 annotations" in said and "annotation 109" in said and "and 20 more" in said
    with pytest.raises(
        DataError, match="None of the 2 annotations .* can be used; the first: annotation 100"
    ):

        def all_bad(document: dict) -> None:
            document["annotations"].clear()
            spoil(document, 2)

        Scenes(coco(tmp_path / "none", all_bad)).source()


@dataclass(frozen=True)
class Read(Numbers):
    """Read, not made, as scenes and photos are: only a fit meets what is wrong with them."""

    kind, stored = "numbers read", False


@dataclass(frozen=True)
class ReadToy(Toy):
    def pipeline(self) -> Pipeline:
        return Pipeline((Node("numbers", self.numbers), Node("total", Total(), ("numbers",))))


def broken(tmp_path: Path, *keys: str) -> ReadToy:
    (tmp_path / "broken").write_text("\n".join(keys))
    return ReadToy(Read(shards=5, rows=4, broken=str(tmp_path / "broken")))


class Training(PlainRunner):
    """Counts how often the fit goes beyond reading its inputs."""

    trained = 0

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        fit = Total.fit

        def train(stage, job):
            job.count([f for file in job.every_input() for f in job.read(file).failures])
            Training.trained += 1
            return fit(stage, job)

        Total.fit = train
        try:
            super().run_fits(fits, stages, store, log_dir, on_receipt, on_progress)
        finally:
            Total.fit = fit


def test_bad_items_are_counted_before_a_training_and_a_finished_model_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "trained", 0)
    recipe = broken(tmp_path, "n/0/s001-2", "n/0/s003-0")
    with pytest.raises(TrainingError, match="total quarantined 2 of 20 items.*the first: n/0/s001-2: broken"):
        run_toy(tmp_path, recipe, Training())
    assert Training.trained == 0
    lines = Root(str(tmp_path)).run("last").read("quarantine.jsonl").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["n/0/s001-2", "n/0/s003-0"]
    run_toy(tmp_path, allowing(recipe, 0.2), Training())
    assert Training.trained == 1
    with pytest.raises(TrainingError, match="total quarantined 2 of 20"):
        run_toy(tmp_path, recipe, Training())
    assert len(Root(str(tmp_path)).run("last").read("quarantine.jsonl").splitlines()) == 2
    run_toy(tmp_path, allowing(recipe, 0.2), Training())
    assert Training.trained == 1  # what was trained was never thrown away

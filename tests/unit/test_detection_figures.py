"""Pictures of detection: boxes where they belong, a legend, targets without truth."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
from detectionkit import TABLE, ToyBoxes
from PIL import Image
from segmentationkit import job

from diffadapt.core.artifact import BOXES_SCHEMA, Input, Rows, Shard
from diffadapt.core.stage import NodePlan, PlannedShard
from diffadapt.stages.scenes import Scenes
from diffadapt.tasks.detection.figures import CROWD, DetectionFigures, boxed

RED, BLUE = (255, 0, 0), (0, 0, 255)


def detections(scenes: ToyBoxes, score: float) -> Rows:
    """The true boxes with ``score``, and a blue false alarm of .4 in every image."""
    right = [
        [{"category": 0, "bbox": o["bbox"], "score": score} for o in objects or ()]
        for objects in scenes.objects
    ]
    boxes = [[*some, {"category": 1, "bbox": [0.0, 0.0, 64.0, 32.0], "score": 0.4}] for some in right]
    columns = {
        "key": scenes.keys,
        "label": [None] * len(scenes),
        "objects": scenes.objects,
        "boxes": boxes,
        "width": [64] * len(scenes),
        "height": [32] * len(scenes),
    }
    return Rows(
        pa.table({f.name: pa.array(columns[f.name], f.type) for f in BOXES_SCHEMA}, schema=BOXES_SCHEMA)
    )


def test_a_box_is_drawn_where_it_is():
    image = np.full((32, 64, 3), 128, np.uint8)
    drawn = boxed(image, [{"category": 0, "bbox": [10.0, 5.0, 30.0, 25.0], "score": 0.9}], TABLE.colours)
    factor = drawn.shape[0] // 32
    rows, columns = np.nonzero((drawn == RED).all(2))
    assert factor == 5 and drawn.shape == (160, 320, 3)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (
        10 * factor,
        5 * factor,
        30 * factor - 1,
        25 * factor - 1,
    )
    crowd = boxed(image, [{"category": 0, "bbox": [10.0, 5.0, 30.0, 25.0], "crowd": True}], TABLE.colours)
    assert (crowd == CROWD).all(2).any() and not (crowd == RED).all(2).any()


def figures(tmp_path, target: ToyBoxes, count: int = 12) -> tuple[dict, dict]:
    source, other = ToyBoxes(count), ToyBoxes(count, inverted=True)
    stage = DetectionFigures(
        TABLE, "source", "transferred", "target", (("Source only", "a"), ("Source + transferred", "b"))
    )
    rows = {
        "source": source.rows(),
        "transferred": other.rows(),
        "target": target.rows(),
        "a": detections(target, 0.1),
        "b": detections(target, 0.9),
    }
    metrics = stage.fit(job(tmp_path, rows))
    return metrics, json.loads((tmp_path / "out" / "figures.json").read_text())


def test_pictures_of_a_run(tmp_path):
    metrics, index = figures(tmp_path, ToyBoxes(9, name="night/0"))
    assert metrics == {"pictures": 2} and [s["image"] for s in index["sections"]] == [
        "transfers.png",
        "panels.png",
    ]
    panel = np.asarray(Image.open(io.BytesIO((tmp_path / "out" / "panels.png").read_bytes())))
    third = panel.shape[1] // 3
    truth, unsure, sure = (
        {
            n: (panel[:, i * third : (i + 1) * third] == c).all(2).sum()
            for n, c in (("red", RED), ("blue", BLUE))
        }
        for i in range(3)
    )
    assert truth["red"] > 50
    # As many boxes as are true, the surest first: the false alarm takes the place of a right one only where
    # it is surer.
    assert sure["blue"] == 0 < unsure["blue"] and sure["red"] > unsure["red"] > 50


def test_few_images_and_targets_without_truth(tmp_path):
    target = ToyBoxes(2, name="night/0")
    target.objects = [None, None]
    metrics, _ = figures(tmp_path, target, count=1)
    assert metrics == {"pictures": 2}
    empty = ToyBoxes(0, name="night/0")
    assert figures(tmp_path / "b", empty)[0] == {"pictures": 1}


def test_only_the_transferred_shards_of_shown_scenes_are_read():
    def node(name, shards):
        return NodePlan(name, Scenes(), name, (), tuple(shards))

    source = node("source", [PlannedShard(Shard(f"s{i}", {}, (), 4), f"d{i}", None) for i in range(12)])
    made = node(
        "transferred",
        [PlannedShard(Shard(f"t{i}", {}, (Input("source", f"d{i}"),), 4), f"e{i}", None) for i in range(12)],
    )
    (shard,) = DetectionFigures(TABLE, "source", "transferred", rows=3).plan(
        {"source": source, "transferred": made}
    )
    assert [i.digest for i in shard.inputs] == ["d0", "d4", "d8", "e0", "e4", "e8"]

"""Training of detectors: boxes that move with their images, exact resume, several workers, learning, the
stages, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from detectionkit import QUICK, SIZE, TABLE, TINY, ToyBoxes, toy_net
from segmentationkit import job, same

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import NodePlan, PlannedShard, WorkContext
from diffadapt.metrics.detection import scores
from diffadapt.tasks.detection.data import DetectionBatches, training_boxes
from diffadapt.tasks.detection.fit import FitDetector
from diffadapt.tasks.detection.predict import PredictBoxes
from diffadapt.tasks.detection.training import fit_detector
from diffadapt.tasks.segmentation.batches import PairedScenes, pair
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.step_batches import Share
from tests.workers import in_two_workers


def fit(net=None, method="both", training=QUICK, checkpoints=None, reporter=None, **more):
    source, transferred = ToyBoxes(12), ToyBoxes(12, inverted=True)
    net = net or toy_net()
    found = fit_detector(
        source,
        None if method == "source_only" else transferred,
        source.boxes(),
        net,
        TINY,
        training,
        method,
        TrainingRun(reporter or LocalReporter(), checkpoints, **more),
    )
    return net, found


@pytest.mark.parametrize("method", ["source_only", "transferred_only", "both"])
def test_each_method_trains_on_its_images(method):
    net, found = fit(method=method, training=replace(QUICK, epochs=1))
    assert not net.training and found["steps"] == 3 and found["images"] == 12 and found["objects"] == 20
    tasks = {k for k in found if k.startswith("task_")}
    assert (
        tasks
        == {
            "source_only": {"task_source"},
            "transferred_only": {"task_transferred"},
            "both": {"task_source", "task_transferred"},
        }[method]
    )
    assert found["loss"] == pytest.approx(sum(found[k] for k in tasks), rel=1e-5)


def test_similarity_is_the_mean_cosine_with_its_weight():
    _, found = fit(training=replace(QUICK, epochs=1, similarity=0.5))
    assert -0.5 <= found["similarity"] < 0 and found["loss"] == pytest.approx(
        found["task_source"] + found["task_transferred"] + found["similarity"], rel=1e-5
    )
    _, other = fit(training=replace(QUICK, epochs=1))
    assert "similarity" not in other and other["task_source"] != found["task_source"]


def test_boxes_move_with_their_images():
    """Every trained box frames its rectangle: inside it is as the class is coloured, in both images, mirrored
    or not."""
    source, other = ToyBoxes(12), ToyBoxes(12, inverted=True)
    training = replace(QUICK, jitter=(0.0, 0.0, 0.0, 0.0))
    scenes = PairedScenes(source, other, pair(source, other))
    batches = DetectionBatches(scenes, source.boxes(), training, (True, True))
    seen = mirrored = 0
    for step in range(6):
        batch = batches.make(step)
        for x, y, target in zip(batch.source, batch.transferred, batch.targets, strict=True):
            assert torch.equal(255 - x, y)
            mirrored += not any(np.array_equal(x.permute(1, 2, 0).numpy(), image) for image in source.images)
            for (x1, y1, x2, y2), label in zip(
                target.boxes.int().tolist(), target.labels.tolist(), strict=True
            ):
                inside = x[:, y1:y2, x1:x2].float().mean((1, 2))
                assert inside.argmax() == (0 if label == 0 else 2) and inside.max() > 180
                seen += 1
    assert seen > 20 and 4 < mirrored < 20


def test_batches_are_slices_of_the_global_batch():
    source, other = ToyBoxes(10), ToyBoxes(10, inverted=True)
    scenes = PairedScenes(source, other, pair(source, other))

    def make(rank, world):
        return DetectionBatches(scenes, source.boxes(), QUICK, (True, True), Share(rank, world))

    for step in (3, 0):
        whole, parts = make(0, 1).make(step), [make(r, 2).make(step) for r in range(2)]
        assert torch.equal(whole.source, torch.cat([p.source for p in parts])) and torch.equal(
            whole.transferred, torch.cat([p.transferred for p in parts])
        )
        assert all(
            torch.equal(a.boxes, b.boxes)
            for a, b in zip(whole.targets, [t for p in parts for t in p.targets], strict=True)
        )


def test_a_paused_training_goes_on_exactly(tmp_path):
    straight, _ = fit()
    fit(checkpoints=Checkpoints(str(tmp_path)), until=2)
    resumed, found = fit(checkpoints=Checkpoints(str(tmp_path)))
    assert found["resumed_from"] == 2 and same(straight.state_dict(), resumed.state_dict())


@pytest.mark.slow
def test_two_workers_end_with_one_model(tmp_path):
    in_two_workers(_worker, tmp_path)
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    assert same(first, second) and not same(first, toy_net().state_dict())
    with pytest.raises(RecipeError, match="which 2 workers cannot share evenly"):
        fit(
            training=replace(QUICK, batch_size=3), reporter=type("Two", (LocalReporter,), {"world_size": 2})()
        )


def _worker(rank: int, folder: str) -> None:
    net, _ = fit(training=replace(QUICK, epochs=1), reporter=DistributedReporter())
    torch.save(net.state_dict(), f"{folder}/{rank}.pt")


def test_sets_that_cannot_be_trained_on():
    source = ToyBoxes(4)
    with pytest.raises(DataError, match="None of the 4 training images has an object"):
        fit_detector(
            source,
            None,
            [b._replace(boxes=b.boxes[:0], labels=b.labels[:0]) for b in source.boxes()],
            toy_net(),
            TINY,
            QUICK,
            "source_only",
            TrainingRun(LocalReporter()),
        )
    with pytest.raises(DataError, match="no readable source scenes"):
        fit_detector(
            ToyBoxes(0), None, [], toy_net(), TINY, QUICK, "source_only", TrainingRun(LocalReporter())
        )
    with pytest.raises(RecipeError, match="no detection method 'bth'. Did you mean 'both'"):
        fit(method="bth")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"bbox": [5, 5, 5, 9]}, r"object 2 has the box \(5, 5, 5, 9\), which has no area"),
        ({"bbox": [9, 5, 5, 9]}, "no area"),
        ({"bbox": [1, 1, float("nan"), 9]}, "no area"),
        ({"bbox": [70, 1, 90, 9]}, "outside the image of 64 x 32 pixels"),
        ({"category": 2}, r"of class 2, but there are 2 classes \(0..1\)"),
    ],
)
def test_objects_that_cannot_be_used(one, said):
    good = {"category": 0, "bbox": [1.0, 2.0, 11.0, 12.0], "crowd": False}
    found = training_boxes([good, {**good, **one}], (32, 64), SIZE, 2)
    assert isinstance(found, str)
    import re

    assert re.search(said, found)


def test_boxes_are_scaled_and_clipped_and_crowds_left_out():
    objects = [
        {"category": 1, "bbox": [-5.0, 2.0, 11.0, 40.0], "crowd": False},
        {"category": 0, "bbox": [0.0, 0.0, 0.0, 0.0], "crowd": True},
    ]
    boxes, labels = training_boxes(objects, (32, 64), (64, 32), 2)
    assert boxes.tolist() == [[0.0, 4.0, 5.5, 64.0]] and labels.tolist() == [1]
    assert training_boxes([], (32, 64), SIZE, 2).boxes.shape == (0, 4)


# The stages.


def stage(method="both", config=TINY, training=QUICK) -> FitDetector:
    return FitDetector(config, training, TABLE, method)


def kept_folder(path, keys, kept) -> str:
    path.mkdir()
    pq.write_table(pa.table({"key": keys, "kept": kept}), path / "kept.parquet")
    return str(path)


def test_fit_and_predict(tmp_path):
    source, other = ToyBoxes(12), ToyBoxes(12, inverted=True)
    other.images = [
        np.ascontiguousarray(i.repeat(2, 0).repeat(2, 1)) for i in other.images
    ]  # generated at another size
    kept = kept_folder(tmp_path / "kept", source.keys, [i != 3 for i in range(12)])
    metrics = stage().fit(
        job(tmp_path, {"source": source.rows(), "transferred": other.rows()}, {"quality": kept})
    )
    assert metrics["images"] == 11 and metrics["quarantined"] == [] and metrics["warnings"] == []
    json.dumps(metrics)
    worker = PredictBoxes(replace(TINY, score=0.0, detections=7), TABLE).open(
        WorkContext("cpu", {"both": str(tmp_path / "out")})
    )
    rows = worker.run(Shard("all", {}), [other.rows(accepted=[i != 2 for i in range(12)])])
    assert (
        rows.column("key") == [k for i, k in enumerate(other.keys) if i != 2]
        and set(rows.column("width")) == {128}
        and set(rows.column("height")) == {64}
    )
    boxes = rows.column("boxes")
    assert all(len(b) == 7 for b in boxes)
    assert max(o["bbox"][2] for b in boxes for o in b) > 64 and all(
        0 <= v <= 128 for b in boxes for o in b for v in o["bbox"]
    )
    assert rows.column("objects")[0] == [{**o, "bbox": o["bbox"]} for o in source.objects[0]]
    alone = worker.run(Shard("all", {}), [ToyBoxes(1, inverted=True).rows()])
    assert alone.column("key") == source.keys[:1]


@pytest.mark.slow
def test_a_detector_learns(tmp_path):
    source = ToyBoxes(40)
    stage("source_only", training=replace(QUICK, epochs=40, checkpoint_every=1000)).fit(
        job(tmp_path, {"source": source.rows()})
    )
    worker = PredictBoxes(TINY, TABLE).open(WorkContext("cpu", {"m": str(tmp_path / "out")}))
    found = scores([worker.run(Shard("all", {}), [source.rows()]).table], TABLE.names)
    assert found["map50"] > 80 and found["map"] > 45


def test_bad_boxes_are_set_apart(tmp_path):
    source = ToyBoxes(8)
    source.objects[0] = [{"category": 0, "bbox": [4.0, 4.0, 4.0, 9.0], "crowd": False}]
    source.objects[1] = None
    metrics = stage("source_only").fit(job(tmp_path, {"source": source.rows()}))
    assert metrics["images"] == 6
    reasons = dict(metrics["quarantined"])
    assert (
        "no area" in reasons[source.keys[0]]
        and "it has no boxes" in reasons[source.keys[1]]
        and len(reasons) == 2
    )
    source.objects = [None] * 8
    with pytest.raises(
        DataError, match="no source scenes with boxes .*; the first: source/0/000: it has no boxes"
    ):
        stage("source_only").fit(job(tmp_path / "b", {"source": source.rows()}))
    refused = kept_folder(tmp_path / "kept", source.keys, [False] * 8)
    with pytest.raises(DataError, match="no transferred scenes .*quality control refused them all"):
        stage().fit(
            job(
                tmp_path / "c",
                {"source": ToyBoxes(8).rows(), "transferred": ToyBoxes(8, True).rows()},
                {"quality": refused},
            )
        )


def test_few_images_are_warned_of(tmp_path):
    metrics = stage("source_only", training=replace(QUICK, epochs=1)).fit(
        job(tmp_path, {"source": ToyBoxes(3).rows()})
    )
    assert metrics["images"] == 3 and "fewer than a batch of 4" in metrics["warnings"][0]


def test_identity_and_plan():
    inputs = {
        "source": NodePlan("source", stage(), "f", (), (PlannedShard(Shard("all", {}, (), 3), "d", None),))
    }
    assert stage("source_only").plan(inputs)[0].key == "all"
    base = stage().identity()
    assert stage(config=replace(TINY, score=0.5, batch_size=9, precision="bf16")).identity() == base
    assert (
        stage("source_only", training=replace(QUICK, similarity=0.2)).identity()
        == stage("source_only").identity()
    )
    for other in (
        stage(training=replace(QUICK, similarity=0.2)),
        stage(training=replace(QUICK, seed=1)),
        stage(config=replace(TINY, size=(64, 64))),
        stage("source_only"),
    ):
        assert other.identity() != base
    predict = PredictBoxes(TINY, TABLE)
    assert (
        PredictBoxes(replace(TINY, score=0.5), TABLE).identity()
        != predict.identity()
        == PredictBoxes(replace(TINY, batch_size=9), TABLE).identity()
    )
    for wrong, said in (
        (stage(training=replace(QUICK, jitter=(0, 0, 0, 0.6))), "circle of hues"),
        (FitDetector(TINY, QUICK), "at least one class"),
    ):
        with pytest.raises(RecipeError, match=said):
            wrong.plan(inputs)

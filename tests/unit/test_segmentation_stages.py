"""Segmenters as stages: folders that load, what is left out and said, planning, identity, and predictions as
rows."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from segmentationkit import QUICK, SIZE, SMALL, TABLE, Toy, job, scene_rows

from diffadapt.core.artifact import IGNORED, SEGMENTS_SCHEMA, Failure, Rows, Shard
from diffadapt.core.config import strict_precision
from diffadapt.core.errors import DataError, RecipeError, WeightsError
from diffadapt.core.identity import digest
from diffadapt.core.stage import NodePlan, PlannedShard, WorkContext
from diffadapt.data.scenes.table import plain_table
from diffadapt.metrics.segmentation import confusion
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.folder import load_segmenter
from diffadapt.stages.scenes import Scenes
from diffadapt.tasks.segmentation.fit import FitSegmenter
from diffadapt.tasks.segmentation.predict import PredictSegments

BRIEF = replace(QUICK, epochs=2, checkpoint_every=100)


def stage(method="zodi", training=BRIEF, config=SMALL, classes=TABLE) -> FitSegmenter:
    return FitSegmenter(config, training, classes, method)


def rows(count=6, **more) -> dict[str, Rows]:
    return {
        "source": scene_rows(Toy(count)),
        "transferred": scene_rows(Toy(count, inverted=True).shuffled(), **more),
    }


def kept(folder: Path, keys, good) -> dict[str, str]:
    folder.mkdir()
    pq.write_table(pa.table({"key": keys, "kept": good}), folder / "kept.parquet")
    return {"quality": str(folder)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    every = rows()
    keys = every["source"].column("key")
    return folder, stage().fit(job(folder, every, kept(folder / "kept", keys, [i != 2 for i in range(6)])))


def test_a_fit_writes_a_segmenter_that_loads(fitted):
    folder, metrics = fitted
    net, config, classes, extra = load_segmenter(folder / "out")
    assert (
        config == strict_precision(with_normalisation(SMALL))
        and classes.names == TABLE.names
        and not net.training
    )
    assert extra["method"] == "zodi" and extra["selection"] == "last" and extra["pairs"] == 5
    assert net(torch.zeros(1, 3, *SIZE))[0].shape == (1, 4, *SIZE)
    assert (
        metrics["images"] == metrics["pairs"] == 5
        and metrics["left_out"] == {"refused": 1}
        and metrics["warnings"] == [] == metrics["quarantined"]
    )
    assert {"loss", "task_source", "task_transferred", "similarity", "cosine"} <= set(
        metrics
    ) and "step_seconds" not in metrics
    json.dumps(metrics)


def test_the_same_fit_writes_the_same_weights_whatever_the_order_of_shards(fitted, tmp_path):
    every = rows()
    every["transferred"] = Rows(every["transferred"].table.take(pa.array([3, 1, 5, 0, 2, 4])))
    stage().fit(
        job(
            tmp_path,
            every,
            kept(tmp_path / "kept", every["source"].column("key"), [i != 2 for i in range(6)]),
        )
    )
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        fitted[0] / "out/model.safetensors"
    ).read_bytes()


def test_a_killed_fit_ends_in_the_same_weights(fitted, tmp_path):
    from diffadapt.train.reporter import LocalReporter

    def kill(step, total, scalars):
        if step == 2:
            raise KeyboardInterrupt

    every = rows()
    quality = kept(tmp_path / "kept", every["source"].column("key"), [i != 2 for i in range(6)])
    often = stage(training=replace(BRIEF, checkpoint_every=1))
    with pytest.raises(KeyboardInterrupt):
        often.fit(job(tmp_path, every, quality, LocalReporter(on_report=kill)))
    shown = []
    often.fit(
        job(tmp_path, every, quality, LocalReporter(on_report=lambda step, total, s: shown.append(step)))
    )
    assert shown == [2], "it goes on from its checkpoint"
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        fitted[0] / "out/model.safetensors"
    ).read_bytes()


def test_source_only_needs_nothing_but_the_source_and_selection_reads_its_set(tmp_path):
    metrics = stage("source_only").fit(job(tmp_path / "a", {"source": scene_rows(Toy(6))}))
    assert metrics["images"] == 6 and metrics["pairs"] == 0 and "selection" not in metrics
    test = scene_rows(Toy(3, first=50))
    chosen = stage("source_only", replace(BRIEF, select="best_source")).fit(
        job(tmp_path / "b", {"source": scene_rows(Toy(6)), "source_test": test})
    )
    assert chosen["selection"]["rule"] == "best_source" and chosen["selection"]["chosen_step"] in (1, 2)
    oracle = stage(training=replace(BRIEF, select="oracle", candidates=1)).fit(
        job(tmp_path / "c", {**rows(), "target": scene_rows(Toy(3, inverted=True, name="night/0", first=60))})
    )
    assert (
        "upper bound" in oracle["selection"]["note"]
        and load_segmenter(tmp_path / "c/out")[3]["selection"] == "oracle"
    )
    with pytest.raises(DataError, match="training.select oracle has none to choose the epoch by"):
        stage(training=replace(BRIEF, select="oracle")).fit(
            job(tmp_path / "d", {**rows(), "target": scene_rows(Toy(2, name="night/0"), labelled=False)})
        )


def test_what_cannot_be_read_is_quarantined_and_said(tmp_path):
    every = rows()
    for name, at in (("source", 1), ("transferred", 0)):
        table = every[name].table
        images = table.column("image").to_pylist()
        images[at]["bytes"] = b"broken"
        every[name] = Rows(
            table.set_column(2, table.schema.field("image"), [images]),
            [Failure("source/0/lost", "could not be made")],
        )
    metrics = stage("both").fit(job(tmp_path, every))
    reasons = dict(metrics["quarantined"])
    assert (
        metrics["pairs"] == 4
        and len(reasons) == 3
        and "not a readable image" in reasons["source/0/001"]
        and "source/0/lost" in reasons
    )
    assert metrics["left_out"] == {"without_transferred": 1, "without_source": 1}


def test_sets_of_which_nothing_is_left(tmp_path):
    every = rows()
    with pytest.raises(
        DataError, match="no transferred scenes to train with: quality control refused them all"
    ):
        stage().fit(
            job(tmp_path / "a", every, kept(tmp_path / "kept", every["source"].column("key"), [False] * 6))
        )
    with pytest.raises(DataError, match="no labelled source scenes"):
        stage("source_only").fit(job(tmp_path / "b", {"source": scene_rows(Toy(3), labelled=False)}))
    few = stage("both").fit(job(tmp_path / "c", rows(2)))
    assert "trains on 2 pairs, fewer than a batch of 4" in few["warnings"][0]


def test_what_reading_the_source_had_to_say_is_passed_on_once(tmp_path):
    said = [f"{i}.png holds the unknown value 99." for i in range(7)]
    source = scene_rows(Toy(4))
    source.warnings = [*said, said[0]]
    alone = stage("source_only").fit(job(tmp_path / "a", {"source": source}))
    assert alone["warnings"] == [*said[:5], "2 more label maps of the source gave such warnings."]
    assert stage("both").fit(job(tmp_path / "b", {**rows(4), "source": source}))["warnings"] == [], (
        "the transfer has said it"
    )


def planned(name: str, made=Scenes()) -> NodePlan:
    return NodePlan(name, made, name, (), (PlannedShard(Shard("all", {}, (), 3), name, None),))


def test_planning_finds_what_cannot_work():
    source = {"source": planned("source")}
    assert len(stage("source_only").plan(source)) == 1
    both = {**source, "transferred": planned("transferred"), "quality": planned("quality", stage())}
    (shard,) = stage().plan(both)
    assert [i.node for i in shard.inputs] == ["source", "transferred", "quality"] and shard.items == 6
    bad = {
        "no segmentation method 'zod'": stage("zod"),
        "at least two classes, but there is one": stage(
            "source_only", classes=plain_table("x", [("road", (0, 0, 0))])
        ),
        "crop (32, 128) is larger than segmenter.size (32, 64)": stage(
            "source_only", replace(BRIEF, crop=(32, 128))
        ),
        "crop is (0, 32): give both": stage("source_only", replace(BRIEF, crop=(0, 32))),
        "at least 32 pixels on either side": stage("source_only", replace(BRIEF, crop=(16, 32))),
        "needs at least two pairs": stage("source_only", replace(BRIEF, batch_size=1)),
        "half of the circle of hues": stage("source_only", replace(BRIEF, jitter=(0.5, 0.5, 0.5, 0.6))),
        "is not one of arch 'deeplabv3plus'": stage(
            "source_only", config=replace(SMALL, backbone="resnet51")
        ),
    }
    for said, wrong in bad.items():
        with pytest.raises(RecipeError) as caught:
            wrong.plan(source)
        assert said in str(caught.value)


def test_identity_knows_what_trains_and_nothing_else():
    def name(method="zodi", training=BRIEF, config=SMALL):
        return digest(stage(method, training, config).identity())

    plain = name("source_only")
    assert plain == name("source_only", replace(BRIEF, similarity=0.7)) and name() != name(
        training=replace(BRIEF, similarity=0.7)
    )
    assert (
        name()
        == name(training=replace(BRIEF, checkpoint_every=5, candidates=3))
        == name(config=replace(SMALL, precision="bf16", batch_size=9))
    )
    chosen = replace(BRIEF, select="best_source")
    assert name(training=chosen) != name(training=replace(chosen, candidates=3)) != name()
    others = [name(m) for m in ("source_only", "transferred_only", "both", "zodi")] + [
        name(training=replace(BRIEF, seed=1)),
        name(config=replace(SMALL, width=4)),
    ]
    assert len(set(others)) == 6
    assert name(config=replace(SMALL, weights="somewhere/a.pth")) == name(
        config=replace(SMALL, weights="elsewhere/b.pth")
    ), "weights count by revision"


def predict(folder, rows: Rows, config=SMALL, classes=TABLE, batch_size=None) -> Rows:
    worker = PredictSegments(config, classes).open(
        WorkContext("cpu", {"model": str(folder)}, batch_size=batch_size)
    )
    return worker.run(Shard("all", {}), [rows])


def test_predictions_are_label_maps_with_their_counts(fitted):
    scenes = Toy(5, first=80, size=(40, 80))
    found = predict(fitted[0] / "out", scene_rows(scenes))
    assert (
        found.table.schema.equals(SEGMENTS_SCHEMA)
        and found.column("key") == scenes.keys
        and found.failures == []
    )
    for i, (stored, counts, sure) in enumerate(
        zip(*(found.column(c) for c in ("prediction", "confusion", "confidence")), strict=True)
    ):
        image = Image.open(io.BytesIO(stored["bytes"]))
        truth = np.asarray(Image.fromarray(scenes.scenes[i][1]).resize(SIZE[::-1], Image.Resampling.NEAREST))
        assert image.mode == "L" and image.size == SIZE[::-1] and 0.25 < sure <= 1
        assert (
            np.array_equal(confusion(truth, np.asarray(image), 3).ravel(), counts)
            and sum(counts) == SIZE[0] * SIZE[1]
        )
        assert sum(counts[12:]) == int((truth == IGNORED).sum())


def test_predictions_do_not_depend_on_batch_mates(fitted):
    scenes = scene_rows(Toy(5, first=80))
    alone, together = (predict(fitted[0] / "out", scenes, batch_size=size).table for size in (1, 4))
    assert alone.drop_columns("confidence").equals(together.drop_columns("confidence"))
    sure = [t.column("confidence").to_numpy() for t in (alone, together)]
    assert np.allclose(*sure, rtol=1e-6, atol=0), "to the last bit of a sum whose order the batch decides"


def test_scenes_without_truth_unreadable_ones_and_refused_ones(fitted):
    scenes = Toy(4, first=80)
    scenes.scenes[1][1][0, 0] = 77
    table = scene_rows(scenes, accepted=[True, True, False, True]).table
    images = table.column("image").to_pylist()
    images[3]["bytes"] = images[3]["bytes"][:50]
    broken = Rows(table.set_column(2, table.schema.field("image"), [images]), [Failure("x", "earlier")])
    found = predict(fitted[0] / "out", broken)
    assert found.column("key") == scenes.keys[:1]
    reasons = {f.key: f.reason for f in found.failures}
    assert (
        set(reasons) == {"x", *scenes.keys[1:2], *scenes.keys[3:]}
        and "class number 77" in reasons[scenes.keys[1]]
    )
    alone = predict(fitted[0] / "out", scene_rows(Toy(2), labelled=False))
    assert alone.column("confusion") == [None, None] and len(alone) == 2
    empty = predict(fitted[0] / "out", Rows(scene_rows(Toy(1)).table.slice(0, 0)))
    assert len(empty) == 0 and empty.table.schema.equals(SEGMENTS_SCHEMA)


def test_a_segmenter_of_other_classes_or_with_broken_weights(fitted, tmp_path):
    with pytest.raises(WeightsError, match="knows 3 classes"):
        predict(
            fitted[0] / "out",
            scene_rows(Toy(1)),
            classes=plain_table("other", [("a", (0, 0, 0)), ("b", (1, 1, 1))]),
        )
    net, config, classes, _ = load_segmenter(fitted[0] / "out")
    from diffadapt.models.segmentation.folder import save_segmenter

    with torch.no_grad():
        next(net.head_parameters()).fill_(3e38)
    save_segmenter(net, tmp_path, config, classes, {})
    found = predict(tmp_path, scene_rows(Toy(2)))
    assert (
        len(found) == 0
        and all("NaN or infinity" in f.reason for f in found.failures)
        and len(found.failures) == 2
    )


def test_identity_of_predictions_knows_the_size_and_a_given_folders_content(fitted, tmp_path):
    base = PredictSegments(SMALL, TABLE)
    assert (
        base.identity()
        == PredictSegments(replace(SMALL, batch_size=9, backbone="resnet50"), TABLE).identity()
    )
    assert base.identity() != PredictSegments(replace(SMALL, size=(64, 64)), TABLE).identity()
    given = PredictSegments(SMALL, TABLE, str(fitted[0] / "out"))
    assert given.identity() == base.identity() and given.revisions()["segmenter"].startswith("sha256:")
    (shard,) = given.plan({"target": planned("target")})
    assert [i.node for i in shard.inputs] == ["target"]
    worker = given.open(WorkContext("cpu"))
    assert len(worker.run(shard, [scene_rows(Toy(2))])) == 2
    (shard,) = base.plan({"target": planned("target"), "model": planned("model", stage())})
    assert [i.node for i in shard.inputs] == ["target", "model"]

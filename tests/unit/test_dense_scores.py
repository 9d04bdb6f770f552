"""Scores of label maps: mean IoU from the sum of the stored counts, a class's own figures after the rows' own
metric."""

import pyarrow as pa
import pytest

from diffadapt.core.artifact import SEGMENTS_SCHEMA, Rows, Shard
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.record import Score
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.run.scores import scores_of
from diffadapt.sweeps.objective import accuracy, objective, reads_predictions


class Segments(Stage):
    kind = "segments"

    def identity(self):
        return {"name": type(self).__name__}

    def plan(self, inputs):
        return [Shard(f"s{i}", {"group": "night/0"}, (), 2) for i in range(2)]


COUNTS = [[8, 0, 0, 2, 0, 0, 1, 0, 0], [0, 4, 0, 0, 6, 0, 0, 0, 3], None, [5, 0, 1, 0, 4, 0, 0, 0, 0]]


@pytest.fixture
def run(tmp_path):
    store = Store(str(tmp_path))
    rows = (
        MethodRow("Source only", ("a",), metric="miou"),
        MethodRow("Source only", ("a",), metric="miou_source", group="day/0"),
    )
    pipeline = Pipeline((Node("a", Segments()),), rows, ("road", "sky"), {"target": "a"})
    plans = pipeline.plan(store)
    for i, p in enumerate(plans["a"].shards):
        part = COUNTS[2 * i : 2 * i + 2]
        table = pa.table(
            {
                "key": [f"night/0/{i}{j}" for j in range(2)],
                "label": pa.nulls(2, pa.int64()),
                "prediction": pa.nulls(2, SEGMENTS_SCHEMA.field("prediction").type),
                "confusion": pa.array(part, pa.list_(pa.int64())),
                "confidence": pa.array([0.5, 0.5], pa.float32()),
            },
            schema=SEGMENTS_SCHEMA,
        )
        store.commit(p.path, Rows(table), {})
    return pipeline, plans, store


def test_one_matrix_for_all_images(run):
    scores = scores_of("r", 0, *run)
    first = [(s.metric, s.group) for s in scores[:2]]
    assert first == [("miou", "night/0"), ("miou_source", "day/0")]
    by = {(s.metric, s.group): s for s in scores}
    assert set(by) == {
        ("miou", "night/0"),
        ("miou_source", "day/0"),
        ("pixel_accuracy", "night/0"),
        ("iou.road", "night/0"),
        ("iou.sky", "night/0"),
    }
    assert by["miou", "night/0"].images == 3 and by["miou", "night/0"].of_images == 4


def test_counts_by_hand(run):
    """Sum of the counts: [[13, 4, 1], [2, 10, 0], [1, 0, 3]], rows the truth, the last row and column
    void."""
    scores = scores_of("r", 0, *run)
    value = {s.metric: s.value for s in scores}
    assert value["iou.road"] == pytest.approx(100 * 13 / 20)
    assert value["iou.sky"] == pytest.approx(100 * 10 / 16)
    assert value["miou"] == pytest.approx(50 * (13 / 20 + 10 / 16))
    assert value["pixel_accuracy"] == pytest.approx(100 * 23 / (18 + 12))


def _score(metric, value, method="ZoDi"):
    return Score("r", method, False, "night/0", "night", 0, metric, value, 1, 1, 0)


def test_estimated_objective_reads_scores_alone():
    rows = [MethodRow("ZoDi", ("z",), metric="miou")]
    scores = [
        _score("miou", 30.0),
        _score("miou_estimated", 50.0),
        _score("iou.road", 90.0),
        _score("miou_estimated", 10.0, "Source only"),
    ]
    assert not reads_predictions("estimated") and reads_predictions("im")
    assert objective("estimated", rows, {}, scores) == 50.0
    assert accuracy(rows, scores) == 30.0

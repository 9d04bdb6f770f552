"""Scores as views over logits: pairing by key, equation 5, groups, and the table on disk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from diffadapt.core import record
from diffadapt.core.artifact import LOGITS_SCHEMA, Rows
from diffadapt.core.pipeline import MethodRow
from diffadapt.core.record import Score
from diffadapt.run.scores import score_rows


def logits(**rows) -> dict:
    """key (with __ for /) -> (label, logits)."""
    return {
        k.replace("__", "/"): (label, np.asarray(values, np.float32)) for k, (label, values) in rows.items()
    }


def top1(scores: list[Score]) -> dict[tuple[str, str], float]:
    return {(s.method, s.group): s.value for s in scores}


def test_the_ensemble_sums_probabilities_not_logits():
    a = logits(fog__5__x=(1, [10.0, 0.0, -90.0]))
    b = logits(fog__5__x=(1, [0.0, 3.0, 90.0 - 90.0]))
    both = record.softmax(a["fog/5/x"][1][None]) + record.softmax(b["fog/5/x"][1][None])
    rows = [MethodRow("A", ("a",)), MethodRow("B", ("b",)), MethodRow("both", ("a", "b"))]
    scores = top1(score_rows("r", 0, rows, {"a": a, "b": b}, {}))
    assert scores == {
        ("A", "fog/5"): 0.0,
        ("B", "fog/5"): 100.0,
        ("both", "fog/5"): 100.0 * (both.argmax() == 1),
    }
    assert both.argmax() == 0


def test_members_pair_by_key_whatever_their_order():
    a = logits(fog__5__x=(0, [0.6, 0.4]), fog__5__y=(1, [0.6, 0.4]), fog__5__only_a=(0, [1, 0]))
    b = logits(fog__5__y=(1, [0.0, 9.0]), fog__5__x=(0, [9.0, 0.0]))
    (score,) = score_rows("r", 3, [MethodRow("m", ("a", "b"), "note", True)], {"a": a, "b": b}, {"fog/5": 4})
    assert (score.value, score.images, score.of_images) == (100.0, 2, 4)
    assert (score.run, score.seed, score.note, score.control, score.corruption, score.severity) == (
        "r",
        3,
        "note",
        True,
        "fog",
        5,
    )


def test_a_like_for_like_row_counts_the_other_nodes_images_only():
    a = logits(fog__5__x=(0, [1, 0]), fog__5__y=(0, [0, 1]))
    few = logits(fog__5__x=(0, [0, 1]))
    (score,) = score_rows("r", 0, [MethodRow("m", ("a",), images_of="few")], {"a": a, "few": few}, {})
    assert (score.value, score.images) == (100.0, 1)


def test_unlabelled_images_give_no_scores():
    assert (
        score_rows(
            "r", 0, [MethodRow("m", ("a",))], {"a": logits(target__0__x=(None, [1, 0]))}, {"target/0": 1}
        )
        == []
    )


def test_a_row_names_its_transfer_seed_and_selection():
    a = logits(webcam__0__x=(1, [0.0, 1.0]), webcam__0__y=(0, [0.0, 1.0]))
    row = MethodRow("DANN", ("a",), group="amazon-webcam", seed=2, selection="oracle")
    (score,) = score_rows("r", 0, [row], {"a": a}, {"amazon-webcam": 2})
    assert (score.group, score.corruption, score.severity, score.seed, score.selection, score.value) == (
        "amazon-webcam",
        "amazon-webcam",
        0,
        2,
        "oracle",
        50.0,
    )


def test_the_class_mean_counts_every_class_once():
    a = logits(t__0__1=(0, [1, 0, 0]), t__0__2=(0, [1, 0, 0]), t__0__3=(0, [1, 0, 0]), t__0__4=(2, [1, 0, 0]))
    top, mean = (
        score_rows("r", 0, [MethodRow("m", ("a",), metric=m)], {"a": a}, {})[0]
        for m in ("top1", "class_mean")
    )
    assert (top.metric, top.value) == ("top1", 75.0) and (mean.metric, mean.value) == ("class_mean", 50.0)


def test_predictions_as_a_table_for_other_tools():
    import io

    import pyarrow.parquet as pq

    from diffadapt.core.predictions import predictions_parquet

    given = logits(target__0__sub__b=(None, [0.0, 0.0, np.log(2)]), target__0__a=(1, [5.0, 5.0, 1.0]))
    rows = pq.read_table(io.BytesIO(predictions_parquet(given, ("x", "y", "ä z")))).to_pylist()
    assert [(r["path"], r["label"], r["class"]) for r in rows] == [("a", 0, "x"), ("sub/b", 2, "ä z")]
    assert rows[1]["confidence"] == pytest.approx(0.5)
    assert pq.read_table(io.BytesIO(predictions_parquet({}, ()))).num_rows == 0


def test_scores_make_the_round_trip():
    scores = [
        Score("r", "m", True, "fog/5", "fog", 5, "top1", 12.5, 3, 4, 7, note="ü"),
        Score("r", "n", False, "target/0", "target", 0, "top1", 0.0, 0, 0, 0),
    ]
    assert record.from_bytes(record.to_bytes(scores)) == scores
    assert record.from_bytes(record.to_bytes([])) == []


def test_predictions_collect_over_shards():
    def rows(key: str, label, values) -> Rows:
        return Rows(
            pa.table(
                {"key": [key], "label": pa.array([label], pa.int64()), "logits": [values]},
                schema=LOGITS_SCHEMA,
            )
        )

    found = record.predictions_by_key([rows("a", 1, [1.0, 2.0]), rows("b", None, [3.0, 4.0])])
    assert (
        found["a"][0] == 1
        and found["b"][0] is None
        and found["b"][1].dtype == np.float32
        and list(found) == ["a", "b"]
    )


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_softmax_does_not_overflow(scale):
    p = record.softmax(np.array([[1.0, 2.0], [-3.0, -3.0]]) * scale)
    assert np.isfinite(p).all() and p.sum(1) == pytest.approx([1, 1]) and p[1, 0] == pytest.approx(0.5)

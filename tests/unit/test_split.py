"""The split of the target: rules, what it records, and its warnings."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import DataError
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.stages.models import logits_rows
from diffadapt.tasks.classification.split import SPLIT_SCHEMA, Split, choose, read_split, split_metrics
from diffadapt.train.reporter import LocalReporter


def job(tmp_path, parts: list[Rows]) -> FitJob:
    tmp_path.mkdir(exist_ok=True)
    files = [InputFile("on_target", f"d{i}", f"p{i}", Shard(f"s{i}", {})) for i in range(len(parts))]
    rows = dict(zip((f.digest for f in files), parts, strict=True))
    return FitJob(
        "split",
        lambda n: files,
        None,
        "",
        str(tmp_path),
        WorkContext("cpu"),
        LocalReporter(),
        lambda f: rows[f.digest],
        files=files,
    )


def logits(predicted, confidence, classes=4):
    """Logits whose softmax is ``confidence`` at ``predicted`` and uniform elsewhere."""
    p = np.full((len(predicted), classes), (1 - np.asarray(confidence))[:, None] / (classes - 1))
    p[np.arange(len(p)), predicted] = confidence
    return np.log(p)


def test_top_takes_the_fraction_of_each_predicted_class():
    predicted = np.array([0] * 5 + [1] * 2 + [3])
    confidence = np.array([0.5, 0.9, 0.7, 0.9, 0.6, 0.3, 0.31, 0.4])
    keys = [f"k{i}" for i in range(8)]
    chosen = choose(predicted, confidence, keys, SplitConfig(fraction=0.5))
    assert np.flatnonzero(chosen).tolist() == [1, 2, 3, 6, 7]  # three of five, one of two, the only one
    assert choose(predicted, confidence, keys, SplitConfig(fraction=0.2)).sum() == 3
    assert choose(predicted, confidence, keys, SplitConfig(fraction=1.0)).all()
    tied = choose(np.zeros(4, int), np.full(4, 0.5), ["b", "a", "d", "c"], SplitConfig(fraction=0.5))
    assert tied.tolist() == [True, True, False, False]


def test_top_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    predicted, confidence, keys = (
        rng.integers(0, 3, 50),
        rng.choice([0.5, 0.6, 0.7], 50),
        [f"{i:02d}" for i in range(50)],
    )
    order = rng.permutation(50)
    chosen = choose(predicted, confidence, keys, SplitConfig())
    assert np.array_equal(
        choose(predicted[order], confidence[order], [keys[i] for i in order], SplitConfig()), chosen[order]
    )


def test_threshold_counts_equality():
    config = SplitConfig(rule="threshold", threshold=0.8)
    assert choose(np.zeros(3, int), np.array([0.79, 0.8, 0.9]), list("abc"), config).tolist() == [
        False,
        True,
        True,
    ]


def test_the_folder_and_its_metrics(tmp_path):
    predicted, confidence = [2, 0, 0, 1], [0.95, 0.6, 0.92, 0.9]
    values = logits(predicted, confidence).astype(np.float32)
    parts = [
        logits_rows(["t/0/d", "t/0/b"], [None, 3], values[:2], []),
        logits_rows(["t/0/a", "t/0/c"], [3, 3], values[2:], []),
    ]
    stage = Split(SplitConfig(warn_coverage=0.7), 4, ("mug", "pen", "back pack", "Stühle"))
    metrics = stage.fit(job(tmp_path, parts))
    table = pq.read_table(tmp_path / "split.parquet")
    assert table.schema.equals(SPLIT_SCHEMA) and table.column("key").to_pylist() == [
        "t/0/a",
        "t/0/b",
        "t/0/c",
        "t/0/d",
    ]
    assert table.column("label").to_pylist() == [0, 0, 1, 2]  # predicted, whatever the rows' labels say
    assert table.column("confidence").to_pylist() == pytest.approx([0.92, 0.6, 0.9, 0.95], abs=1e-6)
    assert read_split(tmp_path) == {
        "t/0/a": (0, True),
        "t/0/b": (0, False),
        "t/0/c": (1, True),
        "t/0/d": (2, True),
    }
    assert metrics["images"] == 4 and metrics["confident"] == 3 and metrics["coverage"] == 0.75
    assert metrics["per_class"] == {"mug": [2, 1], "pen": [1, 1], "back pack": [1, 1], "Stühle": [0, 0]}
    assert metrics["never_predicted"] == ["Stühle"]
    (sentence,) = metrics["warnings"]
    assert "'Stühle'" in sentence and "no pseudo-label for this class" in sentence


def test_collapse_is_said_before_stage_2():
    predicted = np.array([0] * 98 + [1] * 2)
    confidence = np.where(np.arange(100) < 4, 0.95, 0.3)
    names = [f"class {i}" for i in range(12)]
    found = split_metrics(predicted, confidence, confidence > 0.9, SplitConfig(), names)
    assert found["above_threshold"] == pytest.approx(0.04) and found["coverage"] == pytest.approx(1 / 6)
    collapse, coverage = found["warnings"]
    assert collapse.startswith(
        "Only 4 % of the target is predicted with confidence 0.9 or more, which is a sign of a collapsed"
        " stage 1: look at the synthetic images"
    )
    assert coverage.startswith("Stage 1 predicts only 2 of the 12 classes (17 %)") and coverage.endswith(
        "'class 9', ...."
    )
    healthy = split_metrics(np.arange(12), np.full(12, 0.95), np.ones(12, bool), SplitConfig(), names)
    assert healthy["warnings"] == [] and healthy["above_threshold"] == 1.0


def test_predictions_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match="no prediction on the target"):
        Split(num_classes=4).fit(job(tmp_path / "a", [logits_rows([], [], np.zeros((0, 0)), [])]))
    with pytest.raises(DataError, match="have 4 classes, but the recipe has 5"):
        Split(num_classes=5).fit(job(tmp_path / "b", [logits_rows(["k"], [None], logits([1], [0.5]), [])]))


def test_true_labels_change_nothing(tmp_path):
    values = logits([0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6]).astype(np.float32)
    folders = []
    for name, labels in (("a", [0, 1, 2, 3]), ("b", [3, 2, 1, 0]), ("c", [None] * 4)):
        Split(num_classes=4).fit(job(tmp_path / name, [logits_rows(list("wxyz"), labels, values, [])]))
        folders.append((tmp_path / name / "split.parquet").read_bytes())
    assert folders[0] == folders[1] == folders[2]


def test_unused_settings_fork_nothing():
    top = Split(SplitConfig(), 4)
    assert top.identity() != replace(top, config=SplitConfig(fraction=0.3)).identity()
    by_threshold = replace(top, config=SplitConfig(rule="threshold"))
    assert (
        by_threshold.identity() == replace(top, config=SplitConfig(rule="threshold", fraction=0.3)).identity()
    )

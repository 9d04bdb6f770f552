"""Average precision: by hand, against a second implementation, with crowds, unknown truth and absent
classes."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from diffadapt.core.artifact import BOXES_SCHEMA
from diffadapt.metrics.detection import mean_ap, scores

NAMES = ("car", "person", "sign")
A, B = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 30.0]


def true(category, bbox, crowd=False):
    return {"category": category, "bbox": bbox, "crowd": crowd}


def found(category, bbox, score):
    return {"category": category, "bbox": bbox, "score": score}


def row(objects, boxes):
    return {"objects": objects, "boxes": boxes}


def test_perfect_detections():
    rows = [row([true(0, A), true(1, B)], [found(1, B, 0.9), found(0, A, 0.2)]), row([], [])]
    assert mean_ap(rows, NAMES) == pytest.approx({"map": 1.0, "map50": 1.0, "ap.car": 1.0, "ap.person": 1.0})


def test_values_by_hand():
    """Shifted by 2 of 10 pixels: IoU 8 / 12 = .67, so right at .50, .55, .60 and .65 of ten thresholds."""
    rows = [row([true(0, A)], [found(0, [2.0, 0.0, 12.0, 10.0], 0.9)])]
    got = mean_ap(rows, NAMES)
    assert got["map50"] == pytest.approx(1) and got["map"] == pytest.approx(0.4)
    half = [row([true(0, A)], [found(0, A, 0.9)]), row([true(0, A)], [])]  # recall up to .5: 51 of 101 points
    assert mean_ap(half)["map"] == pytest.approx(51 / 101)
    wrong_first = [row([true(0, A)], [found(0, B, 0.9), found(0, A, 0.5)])]  # precision 1/2 at full recall
    assert mean_ap(wrong_first) == {
        "map": pytest.approx(0.5),
        "map50": pytest.approx(0.5),
        "ap.0": pytest.approx(0.5),
    }


def test_a_class_that_never_occurs_counts_nowhere():
    rows = [row([true(0, A)], [found(0, A, 0.9), found(2, B, 0.99)])]
    assert mean_ap(rows, NAMES) == pytest.approx({"map": 1.0, "map50": 1.0, "ap.car": 1.0})
    missed = mean_ap([row([true(0, A), true(1, B)], [found(0, A, 0.9)])], NAMES)
    assert missed["ap.person"] == 0.0 and missed["map"] == pytest.approx(0.5)


def test_crowds_neither_help_nor_hurt():
    crowd = true(0, [0.0, 0.0, 50.0, 50.0], True)
    boxes = [found(0, B, 0.99), found(0, [1.0, 12.0, 9.0, 18.0], 0.98), found(0, A, 0.5)]
    assert mean_ap([row([true(0, A), crowd], boxes)])["map"] == pytest.approx(1)
    assert mean_ap([row([true(0, A)], boxes)])["map"] == pytest.approx(1 / 3)
    only = mean_ap([row([crowd], boxes)])
    assert math.isnan(only["map"]) and set(only) == {"map", "map50"}


def test_images_without_truth_are_skipped(capsys):
    rows = [row(None, [found(0, A, 1.0)] * 5), row([true(0, A)], [found(0, A, 0.9)])]
    assert mean_ap(rows)["map"] == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_objectless_images_punish_false_alarms():
    rows = [row([true(0, A)], [found(0, A, 0.5)]), row([], [found(0, A, 0.9)])]
    assert mean_ap(rows)["map"] == pytest.approx(0.5)


def test_scores_of_tables_in_percent():
    def table(rows):
        columns = {
            "key": ["k"] * len(rows),
            "label": [None] * len(rows),
            "objects": [r["objects"] for r in rows],
            "boxes": [r["boxes"] for r in rows],
            "width": [64] * len(rows),
            "height": [64] * len(rows),
        }
        return pa.table(
            {f.name: pa.array(columns[f.name], f.type) for f in BOXES_SCHEMA}, schema=BOXES_SCHEMA
        )

    first, second = [row([true(0, A)], [found(0, A, 0.9)])], [row([true(0, A)], []), row(None, [])]
    got = scores([table(first), table(second)], NAMES)
    assert got == {
        "map": pytest.approx(100 * 51 / 101),
        "map50": pytest.approx(100 * 51 / 101),
        "ap.car": pytest.approx(100 * 51 / 101),
    }
    assert (
        scores([table([row([], [found(0, A, 0.9)]), row(None, [])])], NAMES) == {} and scores([], NAMES) == {}
    )


def test_against_a_second_implementation():
    rng = np.random.default_rng(3)

    def box():
        x, y, w, h = rng.integers(0, 40), rng.integers(0, 40), rng.integers(5, 25), rng.integers(5, 25)
        return [float(x), float(y), float(x + w), float(y + h)]

    rows = []
    for _ in range(25):
        objects = [true(int(rng.integers(3)), box()) for _ in range(rng.integers(0, 5))]
        near = [
            found(o["category"], [v + float(rng.integers(-3, 4)) for v in o["bbox"]], float(rng.random()))
            for o in objects
            if rng.random() < 0.8
        ]
        rows.append(
            row(
                objects,
                [
                    *near,
                    *(
                        found(int(rng.integers(3)), box(), float(rng.random()))
                        for _ in range(rng.integers(0, 4))
                    ),
                ],
            )
        )
    thresholds = np.linspace(0.5, 0.95, 10)
    wanted = {NAMES[c]: np.mean([plain_ap(rows, c, t) for t in thresholds]) for c in range(3)}
    got = mean_ap(rows, NAMES)
    assert {n: got[f"ap.{n}"] for n in NAMES} == {n: pytest.approx(v, abs=1e-9) for n, v in wanted.items()}
    assert (
        got["map50"] == pytest.approx(np.mean([plain_ap(rows, c, 0.5) for c in range(3)]))
        and 0.1 < got["map"] < got["map50"] < 0.95
    )


def plain_ap(rows, category: int, threshold: float) -> float:
    """Average precision of one class at one threshold, written down from its definition (no crowds)."""
    hits, total = [], 0
    for r in rows:
        truth = [o["bbox"] for o in r["objects"] if o["category"] == category]
        total += len(truth)
        free = list(range(len(truth)))
        for b in sorted((b for b in r["boxes"] if b["category"] == category), key=lambda b: -b["score"]):
            overlaps = {i: iou(truth[i], b["bbox"]) for i in free}
            best = max(overlaps, key=overlaps.get, default=None)
            right = best is not None and overlaps[best] >= min(threshold, 1 - 1e-10)
            hits.append((b["score"], right))
            if right:
                free.remove(best)
    order = [right for _, right in sorted(hits, key=lambda h: -h[0])]
    right = np.cumsum(order)
    recall, precision = right / total, right / np.arange(1, len(order) + 1)
    return float(np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]))


def iou(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

"""Accuracy guessed without labels: the published rules, what a run lacks for them, and that no guess is shown
without its error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffadapt.core.errors import DataError
from diffadapt.core.record import predictions_by_key
from diffadapt.metrics.unlabelled_accuracy import (
    AGREEMENT,
    ATC,
    KNOWN,
    Known,
    above,
    agreement,
    certainty,
    threshold,
)
from diffadapt.report.html import render
from diffadapt.report.own import without_labels as section
from diffadapt.run.without_labels import without_labels
from tests.auditkit import drawn_run


def authors_threshold(scores: np.ndarray, right: np.ndarray) -> float:
    """find_ATC_threshold of the authors' ATC_helper.py, in words: the score after which false positives and
    false negatives are nearest to each other."""
    order = np.argsort(scores)
    positive, negative, best, found = int((~right).sum()), 0, int((~right).sum()), 0.0
    for i in order:
        positive, negative = (positive, negative + 1) if right[i] else (positive - 1, negative)
        if abs(positive - negative) < best:
            best, found = abs(positive - negative), float(scores[i])
    return found


@pytest.mark.parametrize("share", [0.05, 0.4, 0.93])
def test_the_threshold_is_the_authors(share):
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((500, 7))
    right, target = rng.random(500) < share, rng.standard_normal((300, 7))
    limit = threshold(certainty(logits), right)
    assert limit == authors_threshold(certainty(logits), right)
    assert above(certainty(target), limit) == np.mean(certainty(target) >= limit)
    assert above(certainty(logits), limit) == pytest.approx(right.mean(), abs=1 / 499)  # on the source itself


def test_without_an_error_on_the_source_every_image_is_above():
    assert above(np.array([-1.0, -2.0]), threshold(np.array([-0.1]), np.array([True]))) == 1
    with pytest.raises(DataError, match="labelled source images"):
        threshold(np.zeros(0), np.zeros(0, bool))


def test_agreement_is_the_mean_over_pairs_of_seeds():
    a, b, c = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]), np.array([0, 0, 2, 3])
    assert agreement([a, b]) == 0.75 and agreement([a, b, c]) == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    with pytest.raises(DataError, match="two seeds"):
        agreement([a])


def guesses(run) -> dict:
    nodes = run.manifest()["nodes"]
    return without_labels(
        run.manifest(),
        lambda n: predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[n]["shards"]]),
    )


def test_a_run_says_what_it_lacks(tmp_path):
    one = guesses(drawn_run(tmp_path / "one", images=60)[0])
    assert one["rows"] == [] and len(one["missing"]) == 2 and "labelled source images" in one["missing"][0]
    run, truth = drawn_run(tmp_path / "three", images=200, seeds=3)
    three = guesses(run)
    assert [r["row"] for r in three["rows"]][:2] == ["Source only", "MCC"] and len(three["missing"]) == 1
    assert all(r[ATC] is None and 20 < r[AGREEMENT] <= 100 and r["seeds"] == 3 for r in three["rows"])
    assert all(r["true"] is None for r in guesses(drawn_run(tmp_path / "u", 60, False, 2)[0])["rows"])


def test_source_images_with_labels_give_a_threshold(tmp_path):
    """A row of the same model on other, labelled images, as SDA's clean ones are."""
    run, truth = drawn_run(tmp_path, images=300)
    manifest = run.manifest()
    nodes = manifest["nodes"]
    nodes["clean"] = {**nodes["target"]}
    nodes["on_clean"] = {**nodes["row1.s0"], "inputs": ["clean", "model.row1.s0"]}
    manifest["rows"].append({**manifest["rows"][1], "members": ["on_clean"]})
    found = without_labels(
        manifest, lambda n: predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[n]["shards"]])
    )
    (row,) = found["rows"]  # the other models have no source images
    assert row["row"] == "MCC" and row[ATC] == pytest.approx(row["true"], abs=0.35)


def test_no_guess_is_shown_without_its_error(tmp_path, monkeypatch):
    run, _ = drawn_run(tmp_path, images=80, seeds=2)
    run.write(section.FILE, json.dumps(guesses(run)).encode())
    monkeypatch.setattr(section, "KNOWN", ())
    assert section.table(guesses(run)) == ([], []) and "Guesses, not" not in render(run)
    monkeypatch.setattr(section, "KNOWN", (Known(AGREEMENT, "drawn runs", 12, 4.5, 11.25, 3.5),))
    page = render(run)
    assert "off by 4.5 points in the mean and by 11.2 at most (too high by 3.5" in page
    assert "Guesses, not measurements" in page and "thresholded confidence needs" in page


def test_the_errors_that_ship_are_of_both_guesses():
    assert {k.guess for k in KNOWN} == {ATC, AGREEMENT} and all(
        k.rows > 2 and k.error <= k.worst for k in KNOWN
    )

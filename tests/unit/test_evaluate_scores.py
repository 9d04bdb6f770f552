"""Ensembles and accuracies from stored logits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.metrics import classification as c
from diffadapt.metrics.ensemble import MODES, choice, ensemble, softmax

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity" / "sda" / "ensemble.npz"


@pytest.mark.skipif(not PARITY.is_file(), reason="the parity numbers are not beside this checkout")
def test_every_mode_matches_the_reference():
    z = np.load(PARITY)
    p, q = z["logits_target"], z["logits_synth"]
    np.testing.assert_allclose(softmax(p), z["probs_target"], atol=1e-6)
    for mode in MODES:
        scores = ensemble(p, q, mode)
        assert (scores.argmax(1) == z[f"pred_{mode}"]).all(), mode
        if f"score_{mode}" in z:
            np.testing.assert_allclose(scores, z[f"score_{mode}"], atol=1e-6)
        if f"choice_{mode}" in z:
            assert (choice(softmax(p), softmax(q), mode) == z[f"choice_{mode}"]).all()


def test_probability_sum_by_hand():
    two = np.log(np.array([[0.7, 0.2, 0.1]])), np.log(np.array([[0.1, 0.8, 0.1]])) + 5
    np.testing.assert_allclose(ensemble(*two), [[0.8, 1.0, 0.2]])
    assert ensemble(np.array([[1e4, 0.0]]), np.array([[0.0, 1.0]])).argmax() == 0


def test_probabilities_and_logits_disagree_when_one_model_is_overconfident():
    target, synth = np.array([[9.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 40.0]])
    assert ensemble(target, synth, "raw_logit_sum").argmax() == 2
    assert abs(np.diff(ensemble(target, synth)[0, [0, 2]])) < 1e-3


def test_wrong_input_is_refused():
    good = np.zeros((2, 3))
    with pytest.raises(RecipeError, match="Did you mean 'entropy'"):
        ensemble(good, good, "entropi")
    with pytest.raises(DataError, match="shapes"):
        ensemble(good, good[:1])
    with pytest.raises(DataError, match="NaN"):
        ensemble(good, good * np.nan)
    with pytest.raises(DataError, match="NaN"):
        c.predictions(good * np.nan)
    with pytest.raises(DataError, match="do not pair"):
        c.accuracy(np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="do not pair"):
        c.accuracy(np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match="label is outside 0..2"):
        c.confusion(np.array([0]), np.array([3]), 3)


def test_accuracies_by_hand():
    scores = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [0, 3, 2, 1], [0, 3, 2, 1]], float)
    labels = np.array([0, 2, 1, 0])
    assert c.predictions(scores).tolist() == [0, 3, 1, 1]
    assert c.accuracy(c.predictions(scores), labels) == 0.5
    assert c.top_k(scores, labels, 2) == 0.75 and c.top_k(scores, labels, 9) == 1.0
    by_class = c.per_class_accuracy(c.predictions(scores), labels, 4)
    assert by_class[:3].tolist() == [0.5, 1.0, 0.0] and np.isnan(by_class[3])
    assert c.mean_class_accuracy(c.predictions(scores), labels, 4) == 0.5
    assert c.confusion(c.predictions(scores), labels, 4)[2, 3] == 1


def test_scores_need_no_torch():
    code = (
        "import sys, diffadapt.metrics.ensemble, diffadapt.metrics.classification as c; assert 'torch' not in"
        " sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(c.__file__).parents[2])}
    )

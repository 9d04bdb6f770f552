"""Prediction-powered inference: the authors' package's numbers, coverage and width by simulation, the
sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffadapt.core.errors import DataError
from diffadapt.metrics.audit_sample import FEWEST, allocate, draw, strata
from diffadapt.metrics.prediction_powered import Estimate, Stratum, estimate, holm, interval, p_value

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "audit" / "ppi_py.json"
"""Made with the authors' package ppi_py (its commit is in the file) from the arrays that :func:`arrays`
draws."""
CASES = json.loads(GOLDEN.read_text())["cases"]


def arrays(case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, f of the labelled, f of the unlabelled) of a golden case."""
    rng = np.random.default_rng(case["seed"])
    n, count = case["n"], case["n"] + case["N"]
    f = rng.beta(case["a"], 1.0, size=count).round(6)
    y = (rng.random(count) < case["p"] * f**0.5).astype(float)[:n]
    return y, f[:n], f[n:]


@pytest.mark.parametrize("lam", [None, 0.0, 1.0])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['n']} of {c['N']}")
def test_uniform_samples_give_what_the_authors_package_gives(case, lam):
    y, f, unlabelled = arrays(case)
    one = [Stratum(np.arange(len(y)), unlabelled)]
    found = estimate(y, f, one, lam=lam, finite=False, published=True)
    got = [float(v) for v in (found.value, *interval(found, 0.95, kind="normal"))]
    assert got == pytest.approx(case[str(lam)], abs=1e-6)


def test_without_power_it_is_the_mean_of_the_labels_with_its_classical_interval():
    for case in CASES:
        y, f, unlabelled = arrays(case)
        found = estimate(
            y, f, [Stratum(np.arange(len(y)), unlabelled)], lam=0.0, finite=False, published=True
        )
        assert [float(found.value), *map(float, interval(found, kind="normal"))] == pytest.approx(
            case["classical"], abs=1e-6
        )


class Simulated:
    """3,000 images in four strata, a model that is right on 85 % and over-confident, 80 labels a draw."""

    sizes, drawn = (1200, 800, 600, 400), (20, 18, 20, 22)
    right, trust = (0.98, 0.93, 0.75, 0.44), (0.99, 0.95, 0.85, 0.6)

    def __init__(self, draws: int = 1000):
        rng = np.random.default_rng(5)
        self.f, self.y = [], []
        for size, p, t in zip(self.sizes, self.right, self.trust, strict=True):
            f = np.clip(t + 0.5 * (1 - t) * rng.standard_normal(size), 0.02, 1)
            self.f.append(f)
            self.y.append((rng.random(size) < np.clip(p + 1.5 * (f - t), 0, 1)).astype(float))
        picks = [
            np.argpartition(rng.random((draws, size)), k, axis=1)[:, :k]
            for size, k in zip(self.sizes, self.drawn, strict=True)
        ]
        self.label_y = np.concatenate([y[p] for y, p in zip(self.y, picks, strict=True)], axis=1)
        self.label_f = np.concatenate([f[p] for f, p in zip(self.f, picks, strict=True)], axis=1)
        ends = np.cumsum((0, *self.drawn))
        self.strata = [Stratum(np.arange(ends[h], ends[h + 1]), f) for h, f in enumerate(self.f)]
        every = np.concatenate(self.y)
        self.truth = float(every.mean())
        self.uniform = every[np.argpartition(rng.random((draws, len(every))), 80, axis=1)[:, :80]]


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return Simulated()


def test_intervals_hold_in_95_of_100_draws_and_are_narrower_than_the_labels_alone(simulated):
    s = simulated
    found = estimate(s.label_y, s.label_f, s.strata)
    low, high = interval(found)
    held = ((low <= s.truth) & (s.truth <= high)).mean()
    assert 0.93 <= float(held) <= 0.985
    assert abs(float(found.value.mean()) - s.truth) < 0.004  # unbiased: 0.6 of a standard error of the mean
    alone = estimate(s.label_y, s.label_f, s.strata, lam=0.0)
    assert float((high - low).mean() / np.subtract(*interval(alone)[::-1]).mean()) < 0.97
    one = [Stratum(np.arange(80), np.zeros(3000))]
    classical = estimate(s.uniform, np.zeros_like(s.uniform), one, lam=0.0, finite=False, published=True)
    low0, high0 = interval(classical, kind="normal")
    narrower = float((high - low).mean() / (high0 - low0).mean())
    assert narrower < 0.8


def test_unequal_probabilities_are_weighed(simulated):
    """Labels that are taken together from strata of different probability count by their weights; the plain
    mean is off by points."""
    s = simulated
    together = [Stratum(np.arange(80), np.concatenate(s.f))]
    weights = np.repeat(np.divide(s.sizes, s.drawn), s.drawn)
    right = estimate(s.label_y, s.label_f, together, weights)
    wrong = estimate(s.label_y, s.label_f, together)
    assert abs(float(right.value.mean()) - s.truth) < 0.004 < 0.02 < abs(float(wrong.value.mean()) - s.truth)


def test_a_row_that_errs_on_none_of_the_labels_has_an_interval_still():
    f = np.full(500, 0.9)
    found = estimate(np.ones(40), f[:40], [Stratum(np.arange(40), f)])
    low, high = interval(found)
    assert 0.85 < low < 0.95 and high == pytest.approx(1)
    plain = estimate(np.ones(40), f[:40], [Stratum(np.arange(40), f)], ends=None)
    assert np.subtract(*interval(plain, kind="normal")) == pytest.approx(0)  # what the paper's would say


def test_further_images_of_the_domain_are_less_certain_than_these(simulated):
    s = simulated
    here, there = (estimate(s.label_y, s.label_f, s.strata, finite=finite) for finite in (True, False))
    assert (there.variance > here.variance).all()
    whole = estimate(s.y[3], s.f[3], [Stratum(np.arange(400), s.f[3])])
    assert interval(whole) == (pytest.approx(s.y[3].mean()), pytest.approx(s.y[3].mean()))


def test_too_few_labels_are_refused():
    with pytest.raises(DataError, match="two labelled images in every stratum"):
        estimate(np.ones(1), np.ones(1), [Stratum(np.arange(1), np.ones(9))])


def test_p_values_agree_with_intervals_and_holm_with_the_textbook():
    for value in (-0.3, -0.21, -0.1, 0.0, 0.15, 0.24, 0.4):
        found = Estimate(np.array(value), np.array(0.1**2), np.array(1.0), 60, 55)
        low, high = interval(found, 0.95, -1, 1)
        assert (p_value(found) < 0.05) == (low > 0 or high < 0)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_strata_are_by_agreement_and_confidence_and_all_have_labels():
    rng = np.random.default_rng(0)
    confidence, disagreement = rng.random(900), rng.choice([0, 0, 0.2, 0.5], 900)
    doubt = np.sqrt(confidence * (1 - confidence))
    h = strata(confidence, disagreement, doubt)
    assert set(h[disagreement == 0]) == {0, 1, 2} and set(h[disagreement > 0]) == {3, 4, 5}
    for a, b in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert confidence[h == a].min() >= confidence[h == b].max()
    sample = draw(h, doubt, 80, 0)
    assert len(set(sample.chosen)) == 80 == sample.drawn.sum() and (sample.drawn >= FEWEST).all()
    assert np.array_equal(np.bincount(h[sample.chosen]), sample.drawn)
    assert sample.probability == pytest.approx((sample.drawn / sample.sizes)[h[sample.chosen]])
    assert np.array_equal(draw(h, doubt, 80, 0).chosen, sample.chosen)
    assert not np.array_equal(draw(h, doubt, 80, 1).chosen, sample.chosen)
    assert len(np.unique(h[sample.chosen[:25]])) > 3  # the order is not by stratum


@pytest.mark.parametrize("n", [10, 37, 80, 400, 1000])
def test_labels_are_shared_out_to_the_last_one(n):
    sizes = np.array([3, 40, 200, 7, 150])
    drawn = allocate(sizes, np.array([0.5, 0.0, 0.1, 0.4, 0.3]), n)
    assert drawn.sum() == min(n, 400) and (drawn <= sizes).all() and (drawn >= 1).all()


def test_one_kind_of_images_is_one_part():
    h = strata(np.linspace(0, 1, 12), np.zeros(12), np.full(12, 0.3))
    assert h.max() == 0 and len(h) == 12

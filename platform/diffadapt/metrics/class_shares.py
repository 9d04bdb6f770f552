"""The share of each class in an unlabelled target, from a classifier's outputs (label shift): maximum
likelihood (MLLS) by Saerens et al. 2002, with bias-corrected temperature scaling (BCTS) by Alexandari et al.
2020, and black-box shift estimation (BBSE) by Lipton et al. 2018. No torch.

All assume that images of one class look alike in source and target and only their numbers differ. An adapted
model comes near to that, a model of the source alone does not: :data:`KNOWN` says how far the estimates were
off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.record import softmax

MLLS, BCTS, BBSE = "MLLS", "BCTS-MLLS", "BBSE"
"""Without held-out source images, and with them."""
ABSENT = 0.2
"""A class whose estimated share is below this part of an even one (1 / classes) is probably not in the
target."""


@dataclass(frozen=True)
class Known:
    """How far estimated shares were off in runs whose labels are known. ``error``: the total variation
    between estimated and true shares in points, the mean over ``rows`` rows; ``predicted``: that of the
    shares that the same rows predict; ``absent``, ``found``, ``wrong``: how many classes were not in the
    target, how many of them were named so, and how many were named that are in it."""

    how: str
    runs: str
    rows: int
    error: float
    predicted: float
    absent: int
    found: int
    wrong: int


_MCC = "Office-31, amazon to webcam, whole or without ten classes (frozen MobileNetV2, MCC)"
_BOTH = "Office-31, amazon to webcam, whole or without ten classes (frozen MobileNetV2, source only and MCC)"
KNOWN: tuple[Known, ...] = (
    Known(MLLS, _MCC, 6, 19.6, 17.0, 30, 25, 13),
    Known(BCTS, _BOTH, 12, 31.1, 19.4, 60, 48, 56),
    Known(BBSE, _BOTH, 12, 21.8, 19.4, 60, 41, 28),
)
"""Made by ``python -m tests.bench.class_balance``."""


@dataclass(frozen=True)
class Calibration:
    """``probabilities(logits)`` of bias-corrected temperature scaling."""

    temperature: float
    bias: np.ndarray

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) logits -> (N, K) probabilities, float64."""
        return softmax(np.asarray(logits, np.float64) / self.temperature + self.bias)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Temperature and a bias a class that make the labels (N,) of held-out source images likeliest (BCTS,
    Alexandari et al. 2020, section 2.2). A class without a held-out image keeps the bias 0. Raises DataError
    without images."""
    from scipy.optimize import minimize

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if not len(labels):
        raise DataError("Calibration needs labelled source images that the model was not trained on.")
    logits = logits - logits.mean(1, keepdims=True)
    truth = np.eye(logits.shape[1])[labels]
    there = truth.any(0)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        p = softmax(logits / x[0] + x[1:])
        off = (p - truth) / len(labels)
        gradient = np.concatenate([[-(off * logits).sum() / x[0] ** 2], off.sum(0) * there])
        return -float(np.log(np.maximum((p * truth).sum(1), 1e-300)).mean()), gradient

    start = np.concatenate([[1.0], np.zeros(logits.shape[1])])
    bounds = [(1e-3, None), *[(None, None)] * logits.shape[1]]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "maxiter": 500}
    )
    return Calibration(float(found.x[0]), found.x[1:])


def mlls(p: np.ndarray, prior: np.ndarray, tolerance: float = 1e-6, most: int = 1000) -> np.ndarray:
    """The likeliest shares (K,) of the classes among images with the probabilities ``p`` (N, K), which hold
    for classes as frequent as ``prior`` (K,): Saerens et al. 2002, equations 2.9, by expectation maximisation
    until no share moves by more than ``tolerance``. Raises DataError for shapes that do not fit."""
    p, prior = np.asarray(p, np.float64), np.asarray(prior, np.float64)
    if p.ndim != 2 or not len(p) or prior.shape != p.shape[1:]:
        raise DataError(
            f"Probabilities of shape {p.shape} and a prior of shape {prior.shape} give no shares."
        )
    if not (prior > 0).all():
        raise DataError(
            "The prior has a class that the source does not have: every class needs a source image."
        )
    prior = prior / prior.sum()
    ratio, shares = p / prior, prior
    for _ in range(most):
        before, weighed = shares, ratio * shares
        shares = (weighed / np.maximum(weighed.sum(1, keepdims=True), 1e-300)).mean(0)
        if np.abs(shares - before).max() <= tolerance:
            break
    return shares


def bbse(source: np.ndarray, labels: np.ndarray, target: np.ndarray, soft: bool = False) -> np.ndarray:
    """Shares (K,) by the confusion on held-out source images (Lipton et al. 2018, section 4): probabilities
    ``source`` (N, K) with ``labels`` (N,), ``target`` (M, K). Negative weights are cut to 0, the rest adds up
    to 1. Raises DataError where the confusion matrix cannot be inverted, as where a class is never
    predicted."""
    source, target = (_hard(np.asarray(p, np.float64), soft) for p in (source, target))
    truth = np.eye(source.shape[1])[np.asarray(labels, np.int64)]
    confusion = source.T @ truth / max(1, len(source))
    weights = np.zeros(len(confusion))
    if np.linalg.matrix_rank(confusion) == len(confusion):
        weights = np.maximum(np.linalg.solve(confusion, target.mean(0)), 0)
    if not weights.any():
        raise DataError(
            "The confusion matrix on held-out source images cannot be inverted (a class has none, or is never"
            " predicted): hold out more, or estimate by maximum likelihood."
        )
    shares = weights * truth.mean(0)
    return shares / shares.sum()


class Estimate(NamedTuple):
    """``shares`` (K,) of the classes and ``how`` they were estimated: :data:`BBSE`, :data:`BCTS` or
    :data:`MLLS`."""

    shares: np.ndarray
    how: str


def estimate(
    logits: np.ndarray, prior: np.ndarray, held_out: tuple[np.ndarray, np.ndarray] | None = None
) -> Estimate:
    """The shares of the classes in a target with ``logits`` (N, K). ``held_out``: logits and labels of source
    images that the model was not trained on: by their confusion, or calibrated by them where it cannot be
    inverted. Without them the model's probabilities are taken as they are, for classes as frequent as in its
    training (``prior`` (K,))."""
    p = softmax(logits)
    if held_out is None:
        return Estimate(mlls(p, np.asarray(prior, np.float64)), MLLS)
    source, labels = held_out
    try:
        return Estimate(bbse(softmax(source), labels, p), BBSE)
    except DataError:
        calibration = calibrate(source, labels)
        prior = calibration.probabilities(source).mean(0)
        return Estimate(mlls(calibration.probabilities(logits), prior), BCTS)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The total variation between two sets of shares (K,): half the sum of the absolute differences, 0..1,
    the part of the images that would have to change their class."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).sum() / 2)


def absent(shares: np.ndarray) -> np.ndarray:
    """bool (K,): which classes are probably not in the target (:data:`ABSENT`)."""
    return np.asarray(shares) < ABSENT / len(shares)


def _hard(p: np.ndarray, soft: bool) -> np.ndarray:
    return p if soft else np.eye(p.shape[1])[p.argmax(1)]

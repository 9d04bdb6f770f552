"""Accuracy guessed without a label of the target: average thresholded confidence (ATC, Garg et al. 2022) and
the agreement of seeds (Jiang et al. 2022). Both are guesses that can be far off; :data:`KNOWN` says how far
they were. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.record import softmax


@dataclass(frozen=True)
class Known:
    """How far a guess was off in runs whose labels are known: the mean and the largest absolute difference in
    points over ``rows`` rows of ``runs``; ``bias``: the mean of guess minus accuracy."""

    guess: str
    runs: str
    rows: int
    error: float
    worst: float
    bias: float


ATC, AGREEMENT = "thresholded confidence", "agreement of seeds"
KNOWN: tuple[Known, ...] = (
    Known(ATC, "quickstart (corrupted digits)", 4, 30.6, 38.7, 30.6),
    Known(ATC, "Office-31, amazon to webcam (held-out source images, source only)", 6, 24.5, 31.7, -24.5),
    Known(ATC, "Office-31, amazon to webcam (held-out source images, MCC)", 6, 2.3, 6.1, 1.7),
    Known(AGREEMENT, "adapt_anything/digits (three seeds)", 4, 6.4, 11.3, -6.4),
    Known(AGREEMENT, "Office-31, amazon to webcam (linear classifiers)", 4, 14.9, 19.1, 14.9),
)
"""Made by ``python -m tests.bench.without_labels <root> ...`` from finished runs, and those of held-out
source images by ``python -m tests.bench.class_balance``."""


def certainty(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits -> (N,) minus the entropy, the score with which ATC did best (Garg et al., table 1)."""
    p = softmax(logits)
    return (p * np.log(p + 1e-20)).sum(1)


def threshold(scores: np.ndarray, right: np.ndarray) -> float:
    """The score below which as many labelled source images lie as are predicted wrongly (Garg et al.,
    equation 1, as their code takes it); minus infinity where none is wrong. Raises DataError without
    images."""
    if not len(scores):
        raise DataError("A threshold of confidence needs labelled source images.")
    wrong = int((~np.asarray(right, bool)).sum())
    return float(np.sort(scores)[wrong - 1]) if wrong else float("-inf")


def above(scores: np.ndarray, limit: float) -> float:
    """The share of the target's ``scores`` at or above ``limit``: ATC's guess of the accuracy, 0..1."""
    return float((np.asarray(scores) >= limit).mean())


def agreement(predicted: Sequence[np.ndarray]) -> float:
    """How often two trainings that differ by their seed alone answer alike, the mean over all pairs, 0..1:
    the guess of their accuracy. ``predicted``: classes (N,) of each, two or more. Raises DataError for
    fewer."""
    if len(predicted) < 2:
        raise DataError("The agreement of seeds needs two seeds or more.")
    return float(np.mean([(a == b).mean() for a, b in combinations(predicted, 2)]))

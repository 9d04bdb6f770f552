"""Images of no listed class by the free energy of a classifier's logits (Liu et al., NeurIPS 2020), and how
well a score tells them from the others. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffadapt.core.errors import DataError

TPR = 0.95
"""The part of images of listed classes that stays, as in the paper."""


@dataclass(frozen=True)
class Known:
    """How the energy did where the images of unlisted classes are known, percent, the mean over ``rows``
    rows: ``others`` and ``listed`` are the parts that the limit of held-out source images rejects,
    ``others_target`` and ``listed_target`` those of the limit of the target's own images."""

    runs: str
    rows: int
    auroc: float
    fpr95: float
    others: float
    listed: float
    others_target: float
    listed_target: float


_RUNS = "Office-31, amazon to webcam, ten classes not listed (frozen MobileNetV2, {})"
KNOWN: tuple[Known, ...] = (
    Known(_RUNS.format("source only"), 3, 77.1, 79.5, 72.3, 32.3, 10.0, 2.5),
    Known(_RUNS.format("MCC"), 3, 73.0, 72.7, 2.2, 0.3, 12.0, 1.5),
)
"""Made by ``python -m tests.bench.class_balance``."""


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N, K) logits -> free energy (N,), -T log sum exp(f / T) (equation 4): high for images of no listed
    class."""
    z = np.asarray(logits, np.float64) / temperature
    peak = z.max(1, keepdims=True)
    return -temperature * (peak[:, 0] + np.log(np.exp(z - peak).sum(1)))


def limit(energies: np.ndarray, tpr: float = TPR) -> float:
    """The least energy that ``tpr`` of the ``energies`` (N,) of images of listed classes do not exceed
    (section 3.1): an image above it is rejected. Raises DataError without images."""
    if not len(energies):
        raise DataError("A limit of the energy needs predictions of images that are of the listed classes.")
    place = max(1, int(np.ceil(round(tpr * len(energies), 9))))
    return float(np.sort(np.asarray(energies, np.float64))[place - 1])


def auroc(known: np.ndarray, other: np.ndarray) -> float:
    """How often an image of another class has the higher energy than one of a listed class, 0..1; ties count
    half. ``known`` (N,), ``other`` (M,): energies."""
    from scipy.stats import rankdata

    n, m = len(known), len(other)
    ranks = rankdata(np.concatenate([known, other]))
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def fpr(known: np.ndarray, other: np.ndarray, tpr: float = TPR) -> float:
    """The part of images of other classes that stays where ``tpr`` of the others do, 0..1 (FPR95)."""
    return float((np.asarray(other) <= limit(known, tpr)).mean())

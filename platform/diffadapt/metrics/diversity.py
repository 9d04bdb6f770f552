"""How varied a set of images is, from their features: the Vendi score and the mean pairwise cosine
distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest

SIZES = (4, 10, 20, 50, 100, 200)
"""Images of a class that are looked at together: both figures of equal sizes can be compared, the Vendi
score of others cannot."""
WHOLE = (50, 100, 200, 500)
"""The same of a set as a whole."""
DRAWS = 5
"""Figures are means over at most so many disjoint samples."""


def vendi_score(features: np.ndarray) -> float:
    """The effective number of different images among (N, D) features: the exponential of the entropy of the
    eigenvalues of K / N, K their cosines (Friedman and Dieng 2023, definition 3.1). 1: all alike; N: all at
    right angles to each other. Raises DataError without features."""
    x = _unit(features)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x  # the same eigenvalues but for zeros
    p = np.linalg.eigvalsh(gram / len(x))
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def cosine_distance(features: np.ndarray) -> float:
    """The mean of 1 - cosine over all pairs of two different rows of (N, D) features, 0 to 2. Raises
    DataError for fewer than two."""
    x = _unit(features)
    n = len(x)
    if n < 2:
        raise DataError("A mean distance needs the features of two images or more.")
    total = x.sum(0)
    return float(1 - (total @ total - (x * x).sum()) / (n * (n - 1)))


def drawn(keys: Sequence[str]) -> list[int]:
    """The order in which items are drawn into samples: by a hash of their keys, so that a set gives the same
    figures in whatever order its shards come."""
    return sorted(range(len(keys)), key=lambda i: digest(keys[i]))


def of_samples(features: np.ndarray, size: int) -> tuple[float, float]:
    """(Vendi score, cosine distance): means over disjoint samples of ``size`` rows of (N, D) features in the
    order given (:func:`drawn`). Raises DataError for fewer than ``size`` rows."""
    samples = [features[i : i + size] for i in range(0, len(features) - size + 1, size)][:DRAWS]
    if not samples:
        raise DataError(f"There are {len(features)} images, but a sample has {size}.")
    found = [(vendi_score(s), cosine_distance(s)) for s in samples]
    return float(np.mean([v for v, _ in found])), float(np.mean([d for _, d in found]))


def _unit(features: np.ndarray) -> np.ndarray:
    x = np.asarray(features, np.float64)
    if not len(x):
        raise DataError("There are no features, so there is no diversity to measure.")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1)

"""What the labels of an audit say: an accuracy with an interval for every row, which rows can be told apart,
and whether the label-free validators chose well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from diffadapt.audit.answers import Answer, Answers
from diffadapt.metrics.prediction_powered import Estimate, Stratum, estimate, holm, interval, p_value

LEAST = 5
"""Labels that a stratum needs; one with fewer is counted with its neighbour."""
ENOUGH = 10
"""Labels that a row's accuracy needs; fewer say nothing that an interval could hold."""
LEVEL = 0.95
SURE = 1 - LEVEL
"""The probability of one false claim among all pairs that are told apart."""


@dataclass(frozen=True)
class Labels:
    """``places`` (n,): the labelled images among all, ``classes`` (n,) theirs; ``weights`` (n,): images that
    each stands for; ``stratum`` (N,): of every image."""

    places: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    stratum: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray, classes: np.ndarray, stratum: np.ndarray) -> Labels:
        """Those that were given; within a stratum they count as drawn alike from what was chosen there."""
        sizes = np.bincount(stratum)
        given = np.bincount(stratum[places], minlength=len(sizes))
        weights = (sizes / np.maximum(given, 1))[stratum[places]]
        return cls(places, classes, weights, stratum)


def accuracy(
    answer: Answer, labels: Labels, *, lam: float | None = None, finite: bool = True
) -> Estimate | None:
    """The accuracy of one row, 0..1; None where it has fewer than ENOUGH labels. ``lam`` 0: from the labels
    alone."""
    at = _index(answer.places, len(labels.stratum))
    mine = np.flatnonzero(at[labels.places] >= 0)
    if len(mine) < ENOUGH:
        return None
    own = at[labels.places[mine]]
    scale = answer.scale
    y = (answer.predicted[own] == labels.classes[mine]) * scale[own]
    f = answer.trust * scale
    top = (0.0, float(scale.max()))
    return _estimate(y, f, own, labels.stratum[answer.places], labels.weights[mine], lam, finite, top)


def class_shares(answers: Answers, labels: Labels, finite: bool = True) -> list[Estimate]:
    """The share of each class among the images, from the labels and the rows' mean probability of the
    class."""
    own = labels.places
    return [
        _estimate(
            (labels.classes == c).astype(float),
            answers.together[:, c].astype(np.float64),
            own,
            labels.stratum,
            labels.weights,
            finite=finite,
        )
        for c in range(answers.together.shape[1])
    ]


@dataclass(frozen=True)
class Pair:
    """``first`` minus ``second``, in shares of the images that both answered. ``differ``: on how many of
    these their answers differ, of which ``labels`` are labelled: where they agree, no label is needed.
    ``low`` and ``high`` are None where too few are labelled; ``p`` is for this pair alone, ``adjusted`` for
    all (Holm)."""

    first: str
    second: str
    value: float
    low: float | None
    high: float | None
    p: float
    adjusted: float
    images: int
    differ: int
    labels: int

    @property
    def apart(self) -> bool:
        """Whether the two can be told apart, with at most SURE probability of one false claim among all
        pairs."""
        return self.adjusted < SURE


def compare(a: Answer, b: Answer, labels: Labels, finite: bool = True) -> Pair:
    """The difference of two rows from the images on which they differ."""
    count = len(labels.stratum)
    at_a, at_b = _index(a.places, count), _index(b.places, count)
    common = np.flatnonzero((at_a >= 0) & (at_b >= 0))
    ia, ib = at_a[common], at_b[common]
    other = a.predicted[ia] != b.predicted[ib]
    places, ia, ib = common[other], ia[other], ib[other]
    at = _index(places, count)
    mine = np.flatnonzero(at[labels.places] >= 0)
    share = len(places) / max(len(common), 1)
    images, differ, given = len(common), len(places), len(mine)
    if not differ or given < LEAST:
        low = high = 0.0 if not differ else None
        return Pair(
            a.title, b.title, 0.0 if not differ else float("nan"), low, high, 1.0, 1.0, images, differ, given
        )
    own = at[labels.places[mine]]
    scale = a.scale[ia]
    right = labels.classes[mine]
    d = (a.predicted[ia[own]] == right).astype(float) - (b.predicted[ib[own]] == right)
    f = (a.trust[ia] - b.trust[ib]) * scale
    top = float(scale.max())
    weights = labels.weights[mine]
    found = _estimate(
        d * scale[own], f, own, labels.stratum[places], weights, finite=finite, ends=(-top, top)
    )
    low, high = interval(found, LEVEL, -top, top)
    p = p_value(found, 0.0, -top, top)
    low, high = float(low) * share, float(high) * share
    return Pair(a.title, b.title, float(found.value) * share, low, high, p, p, images, differ, given)


def pairs(answers: Sequence[Answer], labels: Labels, finite: bool = True) -> list[Pair]:
    """Every two rows of a transfer, adjusted for the number of all; first the one that is the better by the
    estimate."""
    two = [(a, b) for a, b in combinations(answers, 2) if a.row.group == b.row.group]
    found = [compare(a, b, labels, finite) for a, b in two]
    tested = [i for i, pair in enumerate(found) if pair.low is not None and pair.differ]
    adjusted = dict(zip(tested, holm([found[i].p for i in tested]), strict=True))
    return [_turned(pair, adjusted.get(i, 1.0)) for i, pair in enumerate(found)]


def _turned(pair: Pair, adjusted: float) -> Pair:
    swap = pair.value < 0
    value, low, high = (
        (-pair.value, None if pair.high is None else -pair.high, None if pair.low is None else -pair.low)
        if swap
        else (pair.value, pair.low, pair.high)
    )
    names = (pair.second, pair.first) if swap else (pair.first, pair.second)
    return Pair(*names, value, low, high, pair.p, adjusted, pair.images, pair.differ, pair.labels)


def _index(places: np.ndarray, count: int) -> np.ndarray:
    """(count,): the position in ``places`` of every image, -1 where it is not there."""
    out = np.full(count, -1)
    out[places] = np.arange(len(places))
    return out


def _estimate(
    y: np.ndarray,
    f: np.ndarray,
    own: np.ndarray,
    stratum: np.ndarray,
    weights: np.ndarray,
    lam: float | None = None,
    finite: bool = True,
    ends: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """``f``, ``stratum``: of all images that count; ``own``: which of them are labelled, with values
    ``y``."""
    strata = merged(stratum, own)
    parts = []
    for images in strata:
        inside = np.zeros(len(f), bool)
        inside[images] = True
        parts.append(Stratum(np.flatnonzero(inside[own]), f[images]))
    return estimate(y, f[own], parts, weights, lam=lam, finite=finite, ends=ends)


def merged(stratum: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
    """The images of each stratum; neighbours are taken together until each has LEAST labels (all have, if
    there are as many)."""
    out: list[list[np.ndarray]] = []
    counts: list[int] = []
    for h in np.unique(stratum):
        images = np.flatnonzero(stratum == h)
        given = int((stratum[own] == h).sum())
        if counts and counts[-1] < LEAST:
            out[-1].append(images)
            counts[-1] += given
        else:
            out.append([images])
            counts.append(given)
    if len(counts) > 1 and counts[-1] < LEAST:
        rest = out.pop()
        out[-1] += rest
    return [np.concatenate(parts) for parts in out]


def chosen_by(validators: Mapping[str, Mapping[str, float]], titles: Sequence[str]) -> dict[str, str]:
    """Validator -> the row that it chooses (the highest score; of equal ones the first) among ``titles``.
    ``validators``: row -> validator -> score."""
    names = dict.fromkeys(n for t in titles for n in validators.get(t, {}))
    best = {}
    for name in names:
        scored = [t for t in titles if name in validators.get(t, {})]
        if len(scored) > 1:
            best[name] = max(scored, key=lambda t: validators[t][name])
    return best


def worst_case(answer: Answer, labels: Labels, unclear: np.ndarray, value: float) -> tuple[float, float]:
    """By how much the accuracy would fall and rise if the row were wrong, or right, on all images ``unclear``
    (their places) of which the class cannot be told."""
    at = _index(answer.places, len(labels.stratum))
    mine = unclear[at[unclear] >= 0]
    if not len(mine):
        return 0.0, 0.0
    places = np.concatenate([labels.places, mine])
    moved = []
    for right in (False, True):
        guess = answer.predicted[at[mine]] if right else np.full(len(mine), -1)
        found = accuracy(answer, Labels.of(places, np.concatenate([labels.classes, guess]), labels.stratum))
        moved.append(value - float(found.value) if found else 0.0)
    return max(moved[0], 0.0), max(-moved[1], 0.0)


def truth_of(answer: Answer, answers: Answers) -> float | None:
    """The row's accuracy by the data's own labels; None unless all of its images have one."""
    known = answers.truth[answer.places]
    if (known < 0).any():
        return None
    return float(((answer.predicted == known) * answer.scale).mean())


def as_percent(value: Any) -> float | None:
    """A share in percent, rounded to what is shown and one place more."""
    return None if value is None or not np.isfinite(value) else round(100 * float(value), 2)

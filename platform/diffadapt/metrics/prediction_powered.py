"""A mean over many images from a few labels: prediction-powered inference with power tuning (PPI++,
Angelopoulos, Duchi and Zrnic 2023), for samples that were drawn by strata with known probabilities.

Every image has a prediction ``f`` of the value (of an accuracy: the probability that the model is right
there); the labelled ones have the value ``y`` as well. The estimate is ``mean(lam * f)`` over all images
plus, stratum by stratum, the Hajek mean of ``y - lam * f`` over the labelled ones. With ``lam = 0`` it is the
labels alone, and for every fixed ``lam`` it is unbiased whatever ``f`` is. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.errors import DataError

LEVEL = 0.95
END = 0.1
"""How many labels more each end of the values counts as, in the variance of every stratum."""


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is. The arrays have the shape of the draws that were estimated at once."""

    value: Any
    variance: Any
    lam: Any
    """The power that was chosen, 0 (labels alone) .. 1."""
    labels: int
    freedom: Any
    """Degrees of freedom of the variance (Satterthwaite's, of the strata); 0: take it for known."""
    whole: bool = False
    """Every image is labelled, and just these are asked about: the value is known."""


@dataclass(frozen=True)
class Stratum:
    """Images that were drawn from alike. ``members``: positions of its labelled images among the labels;
    ``f``: the predictions of all its images."""

    members: np.ndarray
    f: np.ndarray


def estimate(
    y: np.ndarray,
    f: np.ndarray,
    strata: Sequence[Stratum],
    weights: np.ndarray | None = None,
    *,
    lam: float | None = None,
    finite: bool = True,
    published: bool = False,
    ends: tuple[float, float] | None = (0.0, 1.0),
) -> Estimate:
    """The mean of y over all images of ``strata``.

    ``y``, ``f`` (..., n): values and predictions of the labelled images, leading axes are draws; ``weights``
    (n,): inverse inclusion probabilities, equal where none are given. ``lam``: the power; None tunes it
    (paper, equation 8 and section 6; in [0, 1]). ``finite``: the mean of just these images (their predictions
    are known, and the more of them are labelled the surer it is); False: of the domain that they were drawn
    from, to which further images belong. ``published``: variances as the authors' package ppi_py takes them
    (divided by n, and f's over labelled and unlabelled together); for a uniform sample of a domain the result
    is the package's then. ``ends``: the least and the largest value that y can have; each counts as half a
    label more in the variance of every stratum, so that one without an error among its few labels is not
    taken for one without any (None, and ``published``: they do not).

    Raises DataError for a stratum with fewer than two labels, and for none.
    """
    y, f = np.asarray(y, np.float64), np.asarray(f, np.float64)
    n, total = y.shape[-1], sum(len(s.f) for s in strata)
    if not strata or any(len(s.members) < 2 for s in strata):
        raise DataError("An estimate needs at least two labelled images in every stratum.")
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    ends = None if published else ends
    parts = [_Part.of(y, f, w, s, total, finite, published, ends) for s in strata]
    every = np.concatenate([s.f for s in strata])
    spread = every.var() / total if not finite else 0.0
    if lam is None:
        reach = np.concatenate([np.broadcast_to(every, (*f.shape[:-1], total)), f], axis=-1)
        own = reach.var(axis=-1, ddof=1) / total if not finite else 0.0
        above = sum(p.share**2 * p.rest * p.covariance for p in parts)
        below = sum(p.share**2 * p.rest * p.variance for p in parts) + own
        power = np.clip(np.divide(above, below, out=np.zeros_like(above + below), where=below > 0), 0, 1)
    else:
        power = np.full(y.shape[:-1], float(lam))
    value = sum(p.share * p.mean(power) for p in parts)
    errors = [p.share**2 * p.error(power) for p in parts]
    variance = sum(errors) + power**2 * spread
    if not finite and len(parts) > 1:
        centre = sum(p.share * p.rectifier(power) for p in parts)
        variance = variance + sum(p.share * (p.rectifier(power) - centre) ** 2 for p in parts) / total
    freedom = 0 if published else _freedom(errors, strata)
    return Estimate(value, variance, power, n, freedom, finite and n >= total)


def _freedom(errors: Sequence[Any], strata: Sequence[Stratum]) -> Any:
    """Degrees of freedom of the sum of the strata's variances (Satterthwaite 1946), 1 or more."""
    below = sum(v * v / (len(s.members) - 1) for v, s in zip(errors, strata, strict=True))
    most = np.full_like(below, float(sum(len(s.members) - 1 for s in strata)))
    return np.maximum(np.divide(sum(errors) ** 2, below, out=most, where=below > 0), 1.0)


@dataclass(frozen=True)
class _Part:
    """One stratum's sums. ``rest``: what of its images is not labelled, over the number of labels."""

    y: np.ndarray
    f: np.ndarray
    w: np.ndarray
    known: float
    share: float
    rest: float
    grow: float
    covariance: Any
    variance: Any
    ends: tuple[float, float] | None

    @classmethod
    def of(
        cls,
        y: np.ndarray,
        f: np.ndarray,
        w: np.ndarray,
        s: Stratum,
        total: int,
        finite: bool,
        published: bool,
        ends: tuple[float, float] | None,
    ) -> _Part:
        y, f, w = y[..., s.members], f[..., s.members], w[s.members] / w[s.members].sum()
        n, size = len(s.members), len(s.f)
        grow = 1.0 if published else n / (n - 1)
        rest = max(1 - n / size, 0.0) if finite else 1.0
        dy, df = y - (w * y).sum(-1, keepdims=True), f - (w * f).sum(-1, keepdims=True)
        covariance = grow * (w * dy * df).sum(-1)
        if published:
            both = np.concatenate([np.broadcast_to(s.f, (*f.shape[:-1], size)), f], axis=-1)
            variance = both.var(axis=-1, ddof=1)
        else:
            variance = grow * (w * df * df).sum(-1)
        return cls(y, f, w, float(s.f.mean()), size / total, rest / n, grow, covariance, variance, ends)

    def rectifier(self, lam: Any) -> Any:
        return (self.w * (self.y - lam[..., None] * self.f)).sum(-1)

    def mean(self, lam: Any) -> Any:
        return lam * self.known + self.rectifier(lam)

    def error(self, lam: Any) -> Any:
        """The variance of the Hajek mean of y - lam f, linearised."""
        e = self.y - lam[..., None] * self.f
        centre = (self.w * e).sum(-1, keepdims=True)
        n = self.y.shape[-1]
        squares = n**2 * (self.w**2 * (e - centre) ** 2).sum(-1)
        if self.ends is None:
            return self.rest * self.grow * squares / n
        middle = lam * (self.w * self.f).sum(-1) + centre[..., 0]
        return self.rest * (squares + END * sum((end - middle) ** 2 for end in self.ends)) / (n - 1 + 2 * END)


def interval(
    found: Estimate, level: float = LEVEL, low: float = 0.0, high: float = 1.0, kind: str = "wilson"
) -> tuple[Any, Any]:
    """(lower, upper) limits of values that lie in [low, high].

    ``normal``: estimate plus and minus quantiles of a normal distribution, as the paper has it. ``wilson``:
    Wilson's interval of a share with the number of labels that would be as sure by themselves (labels over
    design effect; Franco, Little, Louis and Slud 2019) and Student's quantiles: it also holds where few
    labels are wrong, where the normal one is too short, and never leaves [low, high].
    """
    from scipy import stats

    known = np.ndim(found.freedom) == 0 and not found.freedom
    z = stats.norm.ppf((1 + level) / 2) if known else stats.t.ppf((1 + level) / 2, found.freedom)
    value, variance = np.asarray(found.value, np.float64), np.asarray(found.variance, np.float64)
    if found.whole:
        return value, value
    if kind == "normal":
        half = z * np.sqrt(variance)
        return value - half, value + half
    p, many = _share(value, variance, found.labels, low, high)
    centre = (p + z * z / (2 * many)) / (1 + z * z / many)
    half = z / (1 + z * z / many) * np.sqrt(p * (1 - p) / many + z * z / (4 * many**2))
    scale = high - low
    return low + scale * np.maximum(centre - half, 0), low + scale * np.minimum(centre + half, 1)


def _share(value: Any, variance: Any, n: int, low: float, high: float) -> tuple[Any, Any]:
    """The mean as a share in [0, 1], and the labels that would be as sure by themselves."""
    p = np.clip((value - low) / (high - low), 0.0, 1.0)
    v = variance / (high - low) ** 2
    own = p * (1 - p)
    sure = (own > 0) & (v > 0)
    many = np.where(sure, np.divide(own, v, out=np.full_like(own, float(n)), where=sure), float(n))
    return p, np.maximum(many, 1.0)


def p_value(found: Estimate, null: float = 0.0, low: float = -1.0, high: float = 1.0) -> float:
    """Two-sided, of the hypothesis that the mean is ``null``: small where :func:`interval` (wilson) leaves it
    out."""
    from scipy import stats

    p, many = _share(np.asarray(found.value), np.asarray(found.variance), found.labels, low, high)
    zero = (null - low) / (high - low)
    z = abs(float(p) - zero) / np.sqrt(zero * (1 - zero) / float(many))
    return float(2 * (stats.t.sf(z, found.freedom) if found.freedom else stats.norm.sf(z)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that all claims together err with at most the level (Holm 1979), in their
    order."""
    order = np.argsort(p_values, kind="stable")
    out, worst = [0.0] * len(order), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p_values[i]))
        out[i] = worst
    return out

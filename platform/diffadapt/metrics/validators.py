"""Scores of a model on unlabelled target data, to choose between models without target labels. No torch.

Every score is higher for the better model; where the published quantity is a risk, its sign is turned and the
docstring says so. All sums are float64. Logits are (N, K), features (N, D).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.record import softmax

EPSILON = 1e-5
"""Added inside the logarithm of entropies, as in the published implementations (SHOT, EnsV)."""
TEMPERATURE = 0.05
"""SND's (Saito et al. 2021, section 3.1)."""
MIX = 0.55
"""Weight of the image whose prediction is the mixture's label (MixVal, Hu et al. 2023, section 3)."""


class Validator(NamedTuple):
    """``needs``: what a score is computed from. logits; features (and logits); candidates (the logits of
    every candidate); mixed (logits of the images and of their mixtures); source (labelled source data beside
    the target). ``title``: for tables.
    """

    needs: str
    title: str


def entropy(logits: np.ndarray) -> float:
    """Minus the mean entropy of the predictions (Morerio et al. 2018, whose criterion is the entropy itself:
    sign turned)."""
    return -float(_entropies(_probabilities(logits)).mean())


def im(logits: np.ndarray) -> float:
    """Mutual information of input and prediction, H(mean p) - mean H(p) (Bridle et al. 1991; Liang et al.
    2020, SHOT)."""
    p = _probabilities(logits)
    return float(_entropies(p.mean(0, keepdims=True))[0] - _entropies(p).mean())


def corrc(logits: np.ndarray) -> float:
    """Corr-C (Tu et al. 2022): trace(C) / ||C||_F with the class correlation C = P'P / N; sqrt(K) for sure,
    balanced predictions."""
    p = _probabilities(logits)
    c = p.T @ p / len(p)
    return float(np.trace(c) / np.linalg.norm(c))


def snd(points: np.ndarray, temperature: float = TEMPERATURE) -> float:
    """Soft neighbourhood density (Saito et al. 2021, equations 1-3): the mean entropy of each point's
    similarities to the others.

    ``points`` (N, D), N > 1: the authors take softmax outputs; logits and features are variants. Memory is
    O(N).
    """
    points = _matrix(points)
    if len(points) < 2:
        raise DataError(
            "The soft neighbourhood density compares each image with the others: at least two images are"
            " needed."
        )
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    total, block = 0.0, 512
    for start in range(0, len(unit), block):
        similar = unit[start : start + block] @ unit.T / temperature
        rows = np.arange(len(similar))
        similar[rows, rows + start] = -np.inf  # a point is not its own neighbour: exp gives exactly 0
        q = softmax(similar)
        total -= (q * np.log(q + EPSILON)).sum()
    return float(total / len(unit))


def bnm(logits: np.ndarray) -> float:
    """Batch nuclear norm (Cui et al. 2020): ||P||_* / N, the sum of singular values of the predictions; high
    for sure and diverse."""
    p = _probabilities(logits)
    return float(np.linalg.svd(p, compute_uv=False).sum() / len(p))


def mano(logits: np.ndarray) -> float:
    """MaNo (Xie et al. 2024, equations 3-7): (mean p^4)^(1/4) with softmax, or with the second-order Taylor
    form of it where the mean cross-entropy to the uniform distribution (:func:`mano_criterion`) is at most 5.
    """
    logits = _matrix(logits)
    if mano_criterion(logits) > 5:
        p = softmax(logits)
    else:
        p = 1 + logits + logits**2 / 2
        p /= p.sum(1, keepdims=True)
    return float((p**4).mean() ** 0.25)


def mano_criterion(logits: np.ndarray) -> float:
    """Mean over images and classes of -log softmax: how far the predictions are from uniform."""
    logits = _matrix(logits)
    peak = logits.max(1, keepdims=True)
    return float((peak + np.log(np.exp(logits - peak).sum(1, keepdims=True)) - logits).mean())


def classami(logits: np.ndarray, features: np.ndarray) -> float:
    """Adjusted mutual information of predictions and k-means clusters of the features, each cluster started
    at the mean of a predicted class (ClassAMI, Robbiano et al. 2022; centroid initialisation, Musgrave et al.
    2022)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    predicted, features = _probabilities(logits).argmax(1), _matrix(features)
    if len(predicted) != len(features):
        raise DataError(f"{len(predicted)} predictions do not pair with {len(features)} features.")
    centres = np.stack([features[predicted == k].mean(0) for k in np.unique(predicted)])
    # pyright takes the types of the defaults, two strings, for the only ones.
    means = KMeans(len(centres), init=centres, n_init=1, random_state=0)  # pyright: ignore[reportArgumentType]
    clusters = means.fit(features).labels_
    return float(adjusted_mutual_info_score(predicted, clusters))


def dev(weights: np.ndarray, errors: np.ndarray) -> float:
    """Minus the risk of deep embedded validation (You et al. 2019, section 4.2: importance weighting with a
    control variate).

    ``weights`` (N,) are density ratios target/source of labelled source images, ``errors`` (N,) their losses.
    Sign turned.
    """
    w, e = np.asarray(weights, np.float64).ravel(), np.asarray(errors, np.float64).ravel()
    if w.shape != e.shape or len(w) < 2:
        raise DataError(
            f"{len(w)} importance weights and {len(e)} errors do not pair, or are fewer than two."
        )
    weighted = w * e
    variance = w.var(ddof=1)
    eta = -np.cov(weighted, w)[0, 1] / variance if variance > 0 else 0.0
    return -float(weighted.mean() + eta * (w.mean() - 1))


def devn(weights: np.ndarray, errors: np.ndarray, how: str = "max") -> float:
    """DEV with weights normalised to mean 1 (DEVN, Musgrave et al. 2022): divided by their maximum ('max') or
    their standard deviation ('standardize'), then shifted. Minus the risk: sign turned."""
    w = np.asarray(weights, np.float64)
    scale = w.max() if how == "max" else w.std()
    return dev((w - w.mean()) / (scale if scale > 0 else 1.0) + 1, errors)


def importance_weights(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Density ratios target/source at the source features, float64 (N_s,), from a domain classifier (You et
    al. 2019, equation 7).

    The classifier is logistic regression on standardised features, so that it is the same in every run; the
    authors train a small random network.
    """
    from sklearn.linear_model import LogisticRegression

    source, target = _matrix(source), _matrix(target)
    both = np.concatenate([source, target])
    mean, std = both.mean(0), both.std(0)
    domain = np.repeat([1, 0], [len(source), len(target)])
    model = LogisticRegression(max_iter=1000).fit((both - mean) / np.maximum(std, 1e-12), domain)
    odds = -model.decision_function((source - mean) / np.maximum(std, 1e-12))
    return len(source) / len(target) * np.exp(np.clip(odds, -50, 50))


def dev_of(
    source_logits: np.ndarray,
    source_labels: np.ndarray,
    source_features: np.ndarray,
    target_features: np.ndarray,
) -> float:
    """:func:`dev` of a model's 0/1 errors on labelled source images."""
    wrong = _matrix(source_logits).argmax(1) != np.asarray(source_labels)
    return dev(importance_weights(source_features, target_features), wrong)


def ensv(candidates: np.ndarray) -> np.ndarray:
    """EnsV (Hu et al. 2024): each candidate's agreement with the prediction of the mean of all candidates'
    probabilities.

    ``candidates`` (M, N, K) logits -> float64 (M,), fractions in [0, 1].
    """
    candidates = np.asarray(candidates)
    if candidates.ndim != 3 or not candidates.size:
        raise DataError(
            f"The candidates' logits have shape {candidates.shape}; (candidates, images, classes) is needed."
        )
    p = np.stack([_probabilities(logits) for logits in candidates])
    return (p.argmax(2) == p.mean(0).argmax(1)).mean(1)


def mixval(logits: np.ndarray, mixed: np.ndarray, partner: np.ndarray) -> float:
    """MixVal (Hu et al. 2023): how often the mixture .55 x + .45 x_partner is predicted as x is.

    ``mixed`` (N, K) are the mixtures' logits, ``partner`` int (N,) who was mixed in. The mean of two
    accuracies: over pairs of one predicted class (clusters are dense) and of two (the border runs between
    them); one alone where the other has no pair.
    """
    own = _probabilities(logits).argmax(1)
    kept = _probabilities(mixed).argmax(1) == own
    same = own == own[np.asarray(partner)]
    return float(np.mean([kept[pairs].mean() for pairs in (same, ~same) if pairs.any()]))


def of_stored(names: Sequence[str], logits: np.ndarray) -> dict[str, float]:
    """The scores ``names`` of one model that its stored logits (N, K) are enough for; ClassAMI takes the
    logits for features. EnsV, of several models, and SND of a single image, which means nothing, are left
    out."""
    out = {}
    for name in names:
        if name == "classami":
            out[name] = classami(logits, logits)
        elif name != "ensv" and not (name == "snd" and len(logits) < 2):
            out[name] = of_logits(name, logits)
    return out


def warnings(names: Sequence[str], candidates: int, collapsed: bool) -> list[str]:
    """Where those of ``names`` are known to fail among so many candidates, a clause each; ``collapsed``:
    whether a candidate predicts (nearly) one class."""
    prefer = [n for n in COLLAPSE_WINS if n in names] if collapsed else []
    out = []
    if prefer:
        titles = [VALIDATORS[n].title for n in prefer]
        named = " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))
        out.append(
            f"{named} may prefer a collapsed candidate: with one among them, what they chose was"
            f" {COLLAPSE_COST} points below the best"
        )
    if "ensv" in names and candidates == 2:
        out.append(
            f"{VALIDATORS['ensv'].title} of two candidates says little: their mean follows the one that is"
            " surer"
        )
    return out


COLLAPSE_WINS, COLLAPSE_COST = ("snd", "entropy", "mano", "classami"), "18 to 48"
"""Validators that were seen to choose a collapsed candidate, and by how many points that was below the
best."""
VALIDATORS: dict[str, Validator] = {
    "entropy": Validator("logits", "Entropy (minus)"),
    "im": Validator("logits", "IM"),
    "corrc": Validator("logits", "Corr-C"),
    "snd": Validator("logits", "SND"),
    "bnm": Validator("logits", "BNM"),
    "mano": Validator("logits", "MaNo"),
    "classami": Validator("features", "ClassAMI"),
    "ensv": Validator("candidates", "EnsV"),
    "mixval": Validator("mixed", "MixVal"),
    "dev": Validator("source", "DEV (minus the risk)"),
}
"""What can choose a model, by name; higher is better for all."""

_OF_LOGITS: dict[str, Callable[[np.ndarray], float]] = {
    "entropy": entropy,
    "im": im,
    "corrc": corrc,
    "snd": lambda logits: snd(_probabilities(logits)),
    "bnm": bnm,
    "mano": mano,
}


def of_logits(name: str, logits: np.ndarray) -> float:
    """The score of a validator that needs logits alone; SND is taken on softmax outputs."""
    return float(_OF_LOGITS[name](logits))


def of_candidates(name: str, candidates: np.ndarray) -> np.ndarray:
    """The scores of a validator of :data:`OF_CANDIDATES` for ``candidates`` (M, N, K) logits, float64
    (M,)."""
    return ensv(candidates) if name == "ensv" else np.array([of_logits(name, one) for one in candidates])


OF_CANDIDATES = (*_OF_LOGITS, "ensv")
"""Validators that need nothing but the candidates' logits."""


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return softmax(_matrix(logits))


def _entropies(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p + EPSILON)).sum(1)


def _matrix(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise DataError(
            f"A validator got values of shape {values.shape}; one row an image, and at least one image, is"
            " needed."
        )
    if not np.isfinite(values).all():
        raise DataError("A validator got NaN or infinity from the model; train or evaluate it in fp32.")
    return values

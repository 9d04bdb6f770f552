"""Combining the predictions of two models, as SDA does (Eq. 9) and in the other ways of its authors' code. No
torch.

In every mode ``target`` is the source model on the image as it is, ``synth`` the adapted model on the
projected image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.core.record import softmax

Mode = Literal[
    "sda",
    "sum",
    "entropy_sum",
    "confidence_sum",
    "first",
    "second",
    "entropy",
    "confidence",
    "var",
    "raw_logit_sum",
]
MODES: tuple[str, ...] = Mode.__args__  # type: ignore[attr-defined]
"""sda (= sum): equal weights on probabilities, the method's. entropy_sum: each weighted by the other's
entropy;
confidence_sum: each by its own confidence; first, second: one alone; entropy, confidence, var: for each image
the one that is surer by that measure; raw_logit_sum: logits added, which is not the method. The authors
measure entropy and confidence on a softmax of the probabilities, which is kept here."""


def ensemble(target: np.ndarray, synth: np.ndarray, mode: str = "sda") -> np.ndarray:
    """Logits (N, K) of both models -> scores (N, K) whose argmax is the prediction.

    Raises RecipeError for an unknown mode, DataError if the shapes differ or a value is not finite.
    """
    if mode not in MODES:
        raise RecipeError(
            f"There is no ensemble mode {mode!r}; the modes are {', '.join(MODES)}.{suggest(mode, MODES)}"
        )
    target, synth = np.asarray(target), np.asarray(synth)
    if target.shape != synth.shape or target.ndim != 2:
        raise DataError(
            f"The two models' logits have shapes {target.shape} and {synth.shape}; both must be (images,"
            " classes)."
        )
    if not (np.isfinite(target).all() and np.isfinite(synth).all()):
        raise DataError("A model's logits hold NaN or infinity; evaluate it again in fp32.")
    if mode == "raw_logit_sum":
        return target.astype(np.float64) + synth
    p, q = softmax(target), softmax(synth)
    if mode in ("sda", "sum"):
        return p + q
    if mode == "entropy_sum":
        return _entropy(q)[:, None] * p + _entropy(p)[:, None] * q
    if mode == "confidence_sum":
        return _confidence(p)[:, None] * p + _confidence(q)[:, None] * q
    return np.where(choice(p, q, mode)[:, None] == 0, p, q)


def choice(p: np.ndarray, q: np.ndarray, mode: str) -> np.ndarray:
    """Which model the selecting modes take, from probabilities (N, K): int8 (N,), 0 = target, 1 = synth; ties
    go to target."""
    if mode in ("first", "second"):
        return np.full(len(p), int(mode == "second"), dtype=np.int8)
    if mode == "entropy":
        better = _entropy(q) < _entropy(p)
    elif mode == "confidence":
        better = _confidence(q) > _confidence(p)
    elif mode == "var":
        better = q.var(axis=1) > p.var(axis=1)
    else:
        raise RecipeError(f"The ensemble mode {mode!r} does not choose between models.")
    return better.astype(np.int8)


def _entropy(p: np.ndarray) -> np.ndarray:
    p = softmax(p)
    return -(p * np.log(p)).sum(axis=1)


def _confidence(p: np.ndarray) -> np.ndarray:
    return softmax(p).max(axis=1)

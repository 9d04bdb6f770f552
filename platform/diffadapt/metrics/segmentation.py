"""Scores of label maps: one confusion matrix over all pixels, intersection over union by class, its mean,
pixel accuracy.

Void has its own row and column, the last. A void pixel of the truth counts nowhere; void predicted on a
labelled pixel is a miss of the pixel's class and nobody's false alarm (as the ZoDi authors count).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from diffadapt.core.metric import Metric


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 (K+1, K+1) pixel counts, K = ``classes``: rows the truth, columns the prediction.

    Both maps hold class numbers 0..K-1 in arrays of one shape and an unsigned or non-negative integer type;
    every other value is void. Raises ValueError for maps of different shapes.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(
            f"The label maps have the shapes {truth.shape} and {predicted.shape}, which must be equal."
        )
    side = classes + 1
    rows = np.minimum(truth.ravel().astype(np.int64), classes)
    columns = np.minimum(predicted.ravel().astype(np.int64), classes)
    return np.bincount(rows * side + columns, minlength=side * side).reshape(side, side)


def total(matrices: Iterable[np.ndarray | None], classes: int) -> np.ndarray:
    """The sum of confusion matrices, (K+1, K+1) each or as stored row by row; None among them (no truth)
    counts nothing."""
    side = classes + 1
    result = np.zeros((side, side), np.int64)
    for matrix in matrices:
        if matrix is not None:
            result += np.asarray(matrix, np.int64).reshape(side, side)
    return result


def iou(matrix: np.ndarray) -> np.ndarray:
    """float64 (K,): true positives over the union of truth and prediction on labelled pixels; NaN for a class
    that neither has anywhere."""
    labelled = np.asarray(matrix, np.float64)[:-1]
    hits = np.diag(labelled)
    union = labelled.sum(1) + labelled[:, :-1].sum(0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> float:
    """The mean of :func:`iou` over the classes that occur, 0..1; NaN when no pixel is labelled."""
    values = iou(matrix)
    present = values[np.isfinite(values)]
    return float(present.mean()) if len(present) else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """The fraction of labelled pixels that are right, 0..1; NaN when no pixel is labelled."""
    labelled = np.asarray(matrix, np.float64)[:-1]
    count = labelled.sum()
    return float(np.diag(labelled).sum() / count) if count else float("nan")


MIOU = Metric("miou", "mean IoU", "confusion", mean_iou, short="mean IoU")
PIXEL_ACCURACY = Metric(
    "pixel_accuracy", "pixel accuracy", "confusion", pixel_accuracy, short="pixel accuracy"
)
IOU = Metric("iou", "IoU", "confusion", iou, by_class=True)

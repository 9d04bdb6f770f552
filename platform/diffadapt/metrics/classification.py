"""Accuracy of stored scores or predictions: top-1, top-k, by class. Values are fractions in [0, 1]. No
torch."""

from __future__ import annotations

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.metric import Metric


def predictions(scores: np.ndarray) -> np.ndarray:
    """(N, K) logits or scores -> int64 (N,), the first class of the highest score. Raises DataError on NaN or
    infinity."""
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise DataError(f"Scores have shape {scores.shape}; (images, classes) is needed.")
    if not np.isfinite(scores).all():
        raise DataError(
            "The scores hold NaN or infinity, so there is no prediction; evaluate the model again in fp32."
        )
    return scores.argmax(axis=1)


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose predicted class is the label. Raises DataError for no images or different
    lengths."""
    predicted, labels = _paired(predicted, labels)
    return float((predicted == labels).mean())


def top_k(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of images whose label is among the k highest scores (a tie at the border counts the lower class
    first)."""
    _, labels = _paired(predictions(scores), labels)
    k = min(k, scores.shape[1])
    best = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 (K, K): rows are labels, columns predictions. Raises DataError for a class outside 0..K-1."""
    predicted, labels = _paired(predicted, labels)
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= num_classes:
            raise DataError(
                f"A {name} is outside 0..{num_classes - 1}: the data and the classifier have different"
                " classes."
            )
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 (K,): accuracy on the images of each class; NaN where a class has none."""
    table = confusion(predicted, labels, num_classes)
    counts = table.sum(axis=1)
    return np.where(counts > 0, np.diag(table) / np.maximum(counts, 1), np.nan)


def mean_class_accuracy(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Mean of :func:`per_class_accuracy` over the classes that have images."""
    return float(np.nanmean(per_class_accuracy(predicted, labels, num_classes)))


def _paired(predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1 or not len(labels):
        raise DataError(
            f"{predicted.shape} predictions do not pair with {labels.shape} labels; one each, and at least"
            " one, is needed."
        )
    return predicted.astype(np.int64), labels.astype(np.int64)


def class_mean(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their images that are right, 0..1 (as VisDA is
    scored)."""
    right = predicted == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


TOP1 = Metric("top1", "top-1 accuracy", "labels", accuracy, share=True)
CLASS_MEAN = Metric("class_mean", "mean of the classes' accuracies", "labels", class_mean)

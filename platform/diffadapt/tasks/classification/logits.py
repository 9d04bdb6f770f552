"""Logits of a classifier for uint8 images, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch

from diffadapt.core.errors import TrainingError
from diffadapt.models.classifier import Classifier
from diffadapt.models.preprocess import to_input


@torch.inference_mode()
def predict_logits(classifier: Classifier, images: Iterable[np.ndarray] | Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, C) images -> float32 (N, K) logits in evaluation mode, ``config.batch_size`` images at a
    time.

    Raises TrainingError if a logit is NaN or infinite.
    """
    device = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    rest, parts = iter(images), []
    while batch := list(islice(rest, classifier.config.batch_size)):
        parts.append(classifier(to_input(batch, classifier.config, device)).cpu().numpy())
    classifier.train(was_training)
    logits = np.concatenate(parts) if parts else np.zeros((0, classifier.num_classes), np.float32)
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"The classifier gave NaN or infinite logits in {classifier.config.precision}; use fp32."
        )
    return logits

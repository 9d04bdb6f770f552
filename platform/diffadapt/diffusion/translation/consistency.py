"""Whether the source model still sees the labels in a transferred image: its IoU there, relative to that on
the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffadapt.diffusion.translation.quality import DIGITS
from diffadapt.metrics.segmentation import confusion, iou
from diffadapt.models.segmentation.config import SegmenterConfig


class SourceModel:
    """The fitted source-only segmenter; images are brought to ``config.size`` as its predictions are."""

    def __init__(self, folder: str, config: SegmenterConfig, device: str):
        from diffadapt.models.segmentation.folder import load_segmenter

        self.net, inputs, self.classes, _ = load_segmenter(folder, device)
        self.config, self.device = replace(inputs, size=config.size, precision=config.precision), device

    def ious(self, images: Sequence[np.ndarray], annotations: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float64 (K,) of each uint8 (H, W, 3) image: the IoU of every class that its label map (H, W) has,
        NaN for the others."""
        from diffadapt.models.segmentation.inputs import fit_labels, logits

        size, count = self.config.size, len(self.classes.names)
        predicted = logits(self.net, self.config, images, self.device).argmax(1).cpu().numpy()
        result = []
        for truth, labels in zip(annotations, predicted, strict=True):
            matrix = confusion(fit_labels(truth, size), labels, count)
            result.append(np.where(matrix[:-1].sum(1) > 0, iou(matrix), np.nan))
        return result

    def compare(self, original: np.ndarray, transferred: np.ndarray) -> dict[str, Any]:
        """Of both images' :meth:`ious`: ``consistency``, the ratio of their means over the classes that the
        label map has (None where there is none, or none is found on the original), and ``iou``, class name ->
        (on the original, on the transferred image).
        """
        present = np.isfinite(original)
        base = float(original[present].mean()) if present.any() else 0.0
        ratio = round(float(transferred[present].mean()) / base, DIGITS) if base > 0 else None
        named = {
            self.classes.names[c]: [round(float(original[c]), DIGITS), round(float(transferred[c]), DIGITS)]
            for c in np.flatnonzero(present)
        }
        return {"consistency": ratio, "iou": named}

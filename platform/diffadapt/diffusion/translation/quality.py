"""What is measured of a transferred image beside its source: edges, structure, luminance, change; CLIP's view
of the domain.

The source model's view of the labels is in diffusion/translation/consistency.py, the judgement in
diffusion/translation/verdict.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

DIGITS = 4
"""Decimals that are stored, so that rounding on another machine changes no decision but at a threshold's very
edge."""
_WINDOW = 7
_C3 = (0.03 * 255) ** 2 / 2
"""Of the structure term of SSIM (Wang et al. 2004)."""


def compare(source: np.ndarray, transferred: np.ndarray) -> dict[str, float]:
    """Numbers about two uint8 (H, W, 3) images, the source being brought to the other's size (bilinear,
    antialiased).

    edges: Pearson correlation of the Sobel gradient magnitudes of both lumas, -1..1 (0 where one image has
    none); structure: the mean over 7x7 windows of SSIM's structure term, -1..1, which does not feel
    brightness or contrast; luminance, deviation: mean and standard deviation of the luma (ITU-R 601), 0..255;
    contrast: its 95th less its 5th percentile; source_luminance: the source's mean; change: mean absolute
    difference of the pixels, 0..255.
    """
    height, width = transferred.shape[:2]
    if source.shape != transferred.shape:
        source = np.asarray(
            Image.fromarray(np.ascontiguousarray(source)).resize((width, height), Image.Resampling.BILINEAR)
        )
    x, y = luma(source), luma(transferred)
    low, high = np.percentile(y, (5, 95))
    return _rounded({
        "edges": _correlation(_gradient(x), _gradient(y)),
        "structure": _structure(x, y),
        "luminance": y.mean(),
        "deviation": y.std(),
        "contrast": high - low,
        "source_luminance": x.mean(),
        "change": np.abs(source.astype(np.int16) - transferred).mean(),
    })  # fmt: skip


def luma(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (H, W), 0..255."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _gradient(x: np.ndarray) -> np.ndarray:
    from scipy.ndimage import sobel

    return np.hypot(sobel(x, 0, mode="nearest"), sobel(x, 1, mode="nearest"))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / norm if norm > 1e-6 else 0.0


def _structure(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.ndimage import uniform_filter

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values.astype(np.float64), _WINDOW, mode="nearest")

    mx, my = mean(x), mean(y)
    sx, sy = (
        np.sqrt(np.maximum(mean(v * v) - m * m, 0))
        for v, m in ((x.astype(np.float64), mx), (y.astype(np.float64), my))
    )
    return float(((mean(x.astype(np.float64) * y) - mx * my + _C3) / (sx * sy + _C3)).mean())


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in values.items()}


class DomainScore:
    """CLIP's probability of the target's prompt against the source's."""

    def __init__(self, weights: str, target: str, source: str, device: str):
        from diffadapt.models.clip import load_clip

        self.clip = load_clip(weights, device)
        self.prompts = self.clip.class_features([[target], [source]])

    def __call__(self, images: Sequence[np.ndarray]) -> list[float]:
        """A probability in 0..1 for each uint8 (H, W, 3) image."""
        result = self.clip.logits(images, self.prompts).softmax(1)[:, 0]
        return [round(float(p), DIGITS) for p in result]

"""What makes a synthetic image unfit for training: blank pictures and near-duplicates, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.fft import dctn

from diffadapt.data.image import to_pil

_BITS = np.array([bin(i).count("1") for i in range(256)], np.uint8)


def spread(image: np.ndarray) -> float:
    """Standard deviation of the grey levels (0..255) of a uint8 (H, W, C) image, of the channel where it is
    largest."""
    return float(image.reshape(-1, image.shape[2]).std(axis=0).max())


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """A 64-bit hash as uint8 (8,), equal or nearly equal for images that look alike.

    The grey image is scaled to 32 x 32; of its DCT the 8 x 8 lowest frequencies are compared with their
    median (pHash).
    """
    grey = to_pil(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, np.float64), norm="ortho")[:8, :8]
    return np.packbits(low.ravel() > np.median(low))


def near_duplicates(hashes: Sequence[np.ndarray], distance: int) -> list[int | None]:
    """For each hash the position of the first earlier one that stays and differs in at most ``distance``
    bits, or None: it stays itself.

    Only images that stay are compared with, so that a chain of small changes does not empty a class.
    """
    kept = np.zeros((len(hashes), 8), np.uint8)
    positions: list[int] = []
    result: list[int | None] = []
    for i, value in enumerate(hashes):
        differing = _BITS[kept[: len(positions)] ^ value].sum(axis=1, dtype=np.int64)
        near = np.flatnonzero(differing <= distance)
        if len(near):
            result.append(positions[int(near[0])])
            continue
        kept[len(positions)] = value
        positions.append(i)
        result.append(None)
    return result

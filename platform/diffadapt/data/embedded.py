"""The image sets that need no download: scikit-learn's handwritten digits (UCI optdigits, its 1797-image test
part; E. Alpaydin and C. Kaynak 1998, licence CC BY 4.0), shipped as digits.npz.

The 8x8 images of values 0..16 become 16x16 uint8 grey images by bilinear upsampling by two (half-pixel
centres, edges
clamped: weights 3/4 and 1/4, what ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``
does). The split is drawn by a hash of each image's name within its class, so it is the same everywhere;
writers are not separated, because the bundled file does not name them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.data.config import DataConfig
from diffadapt.data.hashes import hash_order
from diffadapt.data.image import encode_png
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, read_class_list

DIGITS_SIZE = 16
DIGITS_TEST = 600
DIGITS_TRAIN = 1197


def digits_native() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 digits at native size: uint8 (1797, 8, 8) of values 0..16, and int64 labels, in scikit-learn's
    order. They are read from digits.npz: importing scikit-learn takes longer than all else that a plan
    does."""
    with np.load(Path(__file__).parent / "digits.npz") as arrays:
        return arrays["images"], arrays["labels"].astype(np.int64)


def upsample2(images: np.ndarray) -> np.ndarray:
    """Bilinear upsampling by two of (..., H, W), half-pixel centres, edges clamped; float64 (..., 2H, 2W)."""
    out = images.astype(np.float64)
    for axis in (-2, -1):
        n = out.shape[axis]
        near = np.repeat(np.arange(n), 2)
        far = np.clip(near + np.tile([-1, 1], n), 0, n - 1)
        out = 0.75 * np.take(out, near, axis) + 0.25 * np.take(out, far, axis)
    return out


@functools.lru_cache(maxsize=3)
def digits(split: str = "all") -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Keys, uint8 images (N, 16, 16, 1) and int64 labels of ``split``: train (1197), test (600) or all,
    sorted by key.

    A key is ``{label}/{index in scikit-learn's order}.png``. The arrays are read-only. Raises DataError for
    another split.
    """
    if split not in ("train", "test", "all"):
        raise DataError(f"embedded:digits has no split {split!r}; it has train, test and all.")
    native, labels = digits_native()
    keys = [f"{label}/{i:04d}.png" for i, label in enumerate(labels)]
    chosen = {"all": set(keys), "test": (test := _test_keys(keys, labels)), "train": set(keys) - test}[split]
    order = sorted((k, i) for i, k in enumerate(keys) if k in chosen)
    index = [i for _, i in order]
    images = np.floor(upsample2(native[index]) * (255 / 16) + 0.5).astype(np.uint8)[..., None]
    images.setflags(write=False)
    picked = labels[index]
    picked.setflags(write=False)
    return tuple(k for k, _ in order), images, picked


def _test_keys(keys: list[str], labels: np.ndarray) -> set[str]:
    """600 keys, each class in proportion (largest remainders), chosen by hash order."""
    counts = np.bincount(labels)
    exact = counts * (DIGITS_TEST / len(labels))
    quota = np.floor(exact).astype(int)
    for c in np.argsort(-(exact - quota), kind="stable")[: DIGITS_TEST - quota.sum()]:
        quota[c] += 1
    test: set[str] = set()
    for c, n in enumerate(quota):
        test.update(hash_order([k for k, label in zip(keys, labels, strict=True) if label == c])[:n])
    return test


def open_digits(config: DataConfig, subset: bool) -> Source:
    """The split of the digits that ``config`` names. Raises DataError for another embedded set."""
    name = config.path.removeprefix("embedded:")
    if name != "digits":
        raise DataError(f"There is no embedded image set {name!r}: embedded:digits is the only one.")
    keys, _, labels = digits(config.split)
    listed = read_class_list(config.classes) if config.classes else None
    source_name = "digits" if config.split == "all" else f"digits-{config.split}"
    if config.labels != "auto":
        return Source(
            source_name, listed or (), tuple(Item(k, None) for k in keys), DigitsReader(), config.fingerprint
        )
    names, index = bind_names(tuple("0123456789"), listed, "embedded:digits", subset)
    items = tuple(Item(k, index[str(label)]) for k, label in zip(keys, labels, strict=True))
    return Source(source_name, names, items, DigitsReader(), config.fingerprint)


class DigitsReader:
    """Reads the embedded digits as PNG bytes."""

    def read(self, key: str) -> bytes:
        return encode_png(self._arrays()[key])

    def locality(self, key: str) -> str:
        return key

    def total_bytes(self, keys: Sequence[str]) -> int:
        return 256 * len(keys)

    def identities(self, keys: Sequence[str], content: bool) -> list[Any]:
        if not content:
            return ["digits", len(keys)]
        arrays = self._arrays()
        return ["digits", hashlib.sha256(b"".join(arrays[k].tobytes() for k in keys)).hexdigest()]

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def _arrays() -> dict[str, np.ndarray]:
        keys, images, _ = digits("all")
        return dict(zip(keys, images, strict=True))

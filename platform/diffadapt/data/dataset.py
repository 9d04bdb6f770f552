"""A whole image set read into memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from diffadapt.core.artifact import Failure
from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.items import Item, Source

UNLABELLED = -1


class Loaded(NamedTuple):
    """``images`` uint8 (N, H, W, C); ``labels`` int64 (N), -1 where there is none; both in the order of
    ``keys``."""

    images: np.ndarray
    labels: np.ndarray
    keys: tuple[str, ...]
    failures: tuple[Failure, ...]


def load_arrays(source: Source, channels: int, size: int | None, readers: int = 4) -> Loaded:
    """Read every image with ``readers`` threads; the result does not depend on their number.

    Unreadable images are left out and named in ``failures``. Raises DataError when nothing is readable, or
    when, without ``size``, the images differ in size.
    """

    def attempt(item: Item) -> tuple[Item, Any, str]:
        try:
            return item, source.image(item.key, channels, size), ""
        except ItemError as error:
            return item, None, str(error)

    ordered = sorted(source.items, key=lambda item: source.reader.locality(item.key))
    with ThreadPoolExecutor(max(1, readers)) as pool:
        done = sorted(pool.map(attempt, ordered), key=lambda row: row[0].key)
    good = [(item, image) for item, image, reason in done if not reason]
    failures = tuple(Failure(item.key, reason) for item, _, reason in done if reason)
    if not good:
        raise DataError(f"No image of {source.name} can be read; the first failure: {failures[0].reason}")
    shapes = {image.shape for _, image in good}
    if len(shapes) > 1:
        raise DataError(
            f"The images of {source.name} differ in size ({len(shapes)} sizes): give one image size."
        )
    labels = [UNLABELLED if item.label is None else item.label for item, _ in good]
    return Loaded(
        np.stack([image for _, image in good]),
        np.array(labels, dtype=np.int64),
        tuple(item.key for item, _ in good),
        failures,
    )

"""Sources as tensors and arrays: a dataset for training, and a whole set read into memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.source import Item, Source

UNLABELLED = -1


class Failure(NamedTuple):
    """An image that could not be read, and why."""

    key: str
    reason: str


class Loaded(NamedTuple):
    """``images`` uint8 (N, H, W, C); ``labels`` int64 (N), -1 where there is none; both in the order of
    ``keys``."""

    images: np.ndarray
    labels: np.ndarray
    keys: tuple[str, ...]
    failures: tuple[Failure, ...]


class ImageDataset(Dataset):
    """Images of a source one at a time, in key order.

    An item is (image, label): the image is what ``transform`` makes of the uint8 (H, W, C) array, or without
    one a uint8 tensor (C, H, W); the label is an int, -1 where there is none. Unreadable images raise
    ItemError on access; :func:`readable` takes them out beforehand.
    """

    def __init__(
        self,
        source: Source,
        channels: int,
        size: int | None,
        transform: Callable[[np.ndarray], Any] | None = None,
    ) -> None:
        self.source, self.channels, self.size, self.transform = source, channels, size, transform

    def __len__(self) -> int:
        return len(self.source.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = self.source.items[index]
        image = self.source.image(item.key, self.channels, self.size)
        label = UNLABELLED if item.label is None else item.label
        if self.transform is not None:
            return self.transform(image), label
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), label


def load_arrays(source: Source, channels: int, size: int | None, readers: int = 4) -> Loaded:
    """Read every image with ``readers`` threads; the result does not depend on their number.

    Unreadable images are left out and named in ``failures``. Raises DataError when nothing is readable, or
    when, without ``size``, the images differ in size.
    """
    good, failures = _read_all(source, readers, lambda item: source.image(item.key, channels, size))
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


def readable(source: Source, readers: int = 4) -> tuple[Source, tuple[Failure, ...]]:
    """The source without the images that cannot be decoded, and those with the reason. Decodes every image
    once."""

    def check(item: Item) -> None:
        source.image(item.key, 3, None)

    good, failures = _read_all(source, readers, check)
    if not good:
        raise DataError(f"No image of {source.name} can be read; the first failure: {failures[0].reason}")
    return (replace(source, items=tuple(item for item, _ in good)) if failures else source), failures


def _read_all(
    source: Source, readers: int, work: Callable[[Item], Any]
) -> tuple[list[tuple[Item, Any]], tuple[Failure, ...]]:
    """(item, result) of every item that worked, and the failures, both in key order."""

    def attempt(item: Item) -> tuple[Item, Any, str | None]:
        try:
            return item, work(item), None
        except ItemError as error:
            return item, None, str(error)

    ordered = sorted(source.items, key=lambda item: source.reader.locality(item.key))
    with ThreadPoolExecutor(max(1, readers)) as pool:
        done = sorted(pool.map(attempt, ordered), key=lambda row: row[0].key)
    good = [(item, result) for item, result, reason in done if reason is None]
    return good, tuple(Failure(item.key, reason) for item, _, reason in done if reason is not None)

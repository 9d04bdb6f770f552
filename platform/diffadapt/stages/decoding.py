"""Rows of encoded images as arrays, with unreadable ones set apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import ItemError
from diffadapt.data.image import decode


@dataclass
class Decoded:
    """Images (uint8 HWC) with their keys and labels, and the items that could not be decoded or that earlier
    stages could not make."""

    keys: list[str]
    labels: list[int | None]
    images: list[np.ndarray]
    failures: list[Failure]


def decode_rows(
    rows: Rows, channels: int, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> Decoded:
    """Decode every image of ``rows`` to ``channels`` and apply ``prepare``; failures of ``rows`` are passed
    on."""
    out = Decoded([], [], [], list(rows.failures))
    for key, label, image in zip(rows.column("key"), rows.column("label"), rows.column("image"), strict=True):
        try:
            array = decode(image["bytes"], channels, key)
            out.images.append(prepare(array) if prepare else array)
        except ItemError as error:
            out.failures.append(Failure(key, str(error)))
            continue
        out.keys.append(key)
        out.labels.append(label)
    return out

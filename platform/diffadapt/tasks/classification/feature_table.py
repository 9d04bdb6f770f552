"""Cached features of many shards as what training reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from diffadapt.core.artifact import FEATURES_SCHEMA, Failure, Rows
from diffadapt.core.errors import DataError
from diffadapt.core.stage import InputFile
from diffadapt.train.views import FeatureViews

KINDS = ("test", "weak", "strong")


class CachedFeatures(FeatureViews):
    """Features of a set, and the items that an earlier stage could not make (``failures``)."""

    def __init__(
        self, labels: np.ndarray, keys: Sequence[str], views: dict[str, np.ndarray], failures: list[Failure]
    ):
        super().__init__(labels, keys, views["test"], views["weak"], views["strong"])
        self.failures = failures


def load_features(
    files: Sequence[InputFile], read: Callable[[InputFile], Rows], keep: Collection[str] | None = None
) -> CachedFeatures:
    """The rows of ``files`` in order, float32; only those whose key is in ``keep`` if it is given.

    Labels are int64, -1 where unknown. Raises DataError when nothing is left or the shards' features differ
    in width or views.
    """
    parts: list[dict[str, np.ndarray]] = []
    keys: list[str] = []
    labels: list[int] = []
    failures: list[Failure] = []
    for file in files:
        rows = read(file)
        failures += rows.failures
        found = rows.column("key")
        chosen = [i for i, key in enumerate(found) if keep is None or key in keep]
        if not chosen:
            continue
        known = rows.column("label")
        keys += [found[i] for i in chosen]
        labels += [-1 if known[i] is None else known[i] for i in chosen]
        parts.append(feature_arrays(rows, chosen))
    if not parts:
        raise DataError(
            "There are no cached features to read: every image is unreadable or was filtered out."
        )
    shapes = {tuple(part[kind].shape[1:] for kind in KINDS) for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"The cached features differ in shape between shards ({sorted(shapes)}): they come from different"
            " backbones."
        )
    views = {kind: np.concatenate([part[kind] for part in parts]) for kind in KINDS}
    return CachedFeatures(np.asarray(labels, np.int64), keys, views, failures)


def feature_arrays(rows: Rows, chosen: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """``test`` (N, D), ``weak`` (N, V, D) and ``strong`` (N, S, D) of the ``chosen`` rows (default: all),
    float32."""
    table = rows.table if chosen is None or len(chosen) == len(rows) else rows.table.take(list(chosen))
    assert set(FEATURES_SCHEMA.names) <= set(table.schema.names)
    count = table.num_rows
    flat = {kind: np.asarray(table.column(kind).combine_chunks().flatten(), np.float32) for kind in KINDS}
    test = flat["test"].reshape(count, -1) if count else np.zeros((0, 0), np.float32)
    width = max(1, test.shape[1])
    return {
        "test": test,
        **{
            kind: (
                flat[kind].reshape(count, -1, width)
                if flat[kind].size
                else np.zeros((count, 0, test.shape[1]), np.float32)
            )
            for kind in ("weak", "strong")
        },
    }

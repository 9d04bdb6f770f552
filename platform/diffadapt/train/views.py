"""What training reads: views of a set's items, as augmented images or as cached features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

Augment = Callable[[np.ndarray, int], torch.Tensor]
KINDS = ("test", "weak", "strong")


class Views(Protocol):
    """A set of N items. ``labels`` int64 (N,), -1 where unknown; ``keys`` their names."""

    labels: np.ndarray
    keys: Sequence[str]

    def __len__(self) -> int: ...

    def get(self, indices: Sequence[int], kind: str, seeds: Sequence[int]) -> torch.Tensor:
        """One view of each of ``indices``: 'test' (deterministic), 'weak' or 'strong', a function of (item,
        kind, seed)."""
        ...


class ImageViews:
    """Images (indexable: uint8 (H, W, C), or (image, label) pairs), each kind by its augmentation.

    Views are float32 (b, channels, crop, crop), normalised. ``augments`` maps a kind to ``augment(image,
    seed)``, which gives uint8 or already normalised float32.
    """

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        keys: Sequence[str],
        augments: dict[str, Augment],
        normalise: Callable[[torch.Tensor], torch.Tensor],
    ):
        self.images, self.labels, self.keys, self.augments, self.normalise = (
            images,
            labels,
            list(keys),
            augments,
            normalise,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def get(self, indices: Sequence[int], kind: str, seeds: Sequence[int]) -> torch.Tensor:
        return self.finish(self.raw(indices, kind, seeds))

    def raw(self, indices: Sequence[int], kind: str, seeds: Sequence[int]) -> torch.Tensor:
        """The same before :meth:`finish`, which a device does faster; a quarter as much is moved to it."""
        augment = self.augments[kind]
        made = []
        for i, seed in zip(indices, seeds, strict=True):
            item = self.images[int(i)]
            made.append(augment(item[0] if isinstance(item, tuple) else item, int(seed)))
        return torch.stack(made)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """uint8 views normalised, on their device; what is float32 already as it is."""
        return self.normalise(x) if x.dtype == torch.uint8 else x


def finished(views: Views, x: torch.Tensor) -> torch.Tensor:
    """What :meth:`StepBatches.read` gave of ``views``, as the network takes it."""
    finish = getattr(views, "finish", None)
    return finish(x) if finish is not None else x


class FeatureViews:
    """Cached backbone features: ``test`` (N, D), ``weak`` (N, V, D), ``strong`` (N, S, D); a seed picks one
    of the cached views."""

    def __init__(
        self, labels: np.ndarray, keys: Sequence[str], test: np.ndarray, weak: np.ndarray, strong: np.ndarray
    ):
        self.labels, self.keys = labels, list(keys)
        self.cached = {"test": test[:, None], "weak": weak, "strong": strong}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        return self.cached["test"].shape[2]

    def get(self, indices: Sequence[int], kind: str, seeds: Sequence[int]) -> torch.Tensor:
        views = self.cached[kind]
        if not views.shape[1]:
            views = self.cached["test"]
        chosen = np.asarray(seeds, dtype=np.uint64) % np.uint64(views.shape[1])
        return torch.from_numpy(
            np.ascontiguousarray(views[np.asarray(indices), chosen.astype(np.int64)])
        ).float()

"""How the images of a class-balanced synthetic set are cut into shards, and what of their settings is
identity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffadapt.core.config import to_dict


def blocks(config: Any, num_classes: int) -> Iterator[tuple[str, dict[str, int], int]]:
    """(key, params, images) of every shard: ``images_per_shard`` consecutive images of ``classes_per_shard``
    consecutive classes."""
    for start in range(0, config.images_per_class, config.images_per_shard):
        stop = min(start + config.images_per_shard, config.images_per_class)
        for first in range(0, num_classes, config.classes_per_shard):
            last = min(first + config.classes_per_shard, num_classes)
            params = {"start": start, "stop": stop, "first_class": first, "last_class": last}
            yield f"i{start:06d}-{stop:06d}-c{first:04d}-{last:04d}", params, (stop - start) * (last - first)


def grid_identity(config: Any, seed: int) -> dict[str, Any]:
    """All settings but how many images and in what shards, and the weights' place: these count by
    revision."""
    fields = to_dict(config, identity_only=True)
    for name in ("weights", "images_per_class", "images_per_shard", "classes_per_shard"):
        fields.pop(name)
    return {"config": fields, "seed": seed}


def weights_label(weights: str) -> str:
    """The readable name of a generator's weights."""
    name = "trained" if weights == "train" else weights.rstrip("/").replace("\\", "/").split("/")[-1]
    return name.removeprefix("embedded:")

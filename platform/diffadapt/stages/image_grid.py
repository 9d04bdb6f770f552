"""How the images of a class-balanced synthetic set are cut into shards, and what of their settings is
identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from diffadapt.core.artifact import Failure, image_table
from diffadapt.core.config import to_dict
from diffadapt.core.errors import ItemError, ResourceError, WeightsError
from diffadapt.core.identity import item_seed
from diffadapt.core.leniency import missing
from diffadapt.core.stage import WorkContext
from diffadapt.data.image import encode_png
from diffadapt.diffusion.generators.base import generator_of, silence_of
from diffadapt.stages.batching import Batcher
from diffadapt.stages.encoding import Encoder


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


def grid_label(weights: str) -> str:
    """The readable name of a generator."""
    return "trained" if weights == "train" else generator_of(weights).label


def grid_revisions(weights: str) -> dict[str, str]:
    """What the digest says of a generator that the recipe does not train itself."""
    if weights == "train":
        return {}
    try:
        return {"generator": generator_of(weights).revision()}
    except silence_of(weights) as error:
        missing(
            WeightsError(
                f"The generator {weights!r} does not say its revision ({type(error).__name__}: {error}): run"
                " the same command again once it answers."
            )
        )
        return {"generator": f"missing:{weights}"}


class GridWorker:
    """Makes images with a generator and encodes them beside the device.

    ``generate`` takes what the images are made from (labels or prompts) and their seeds; see
    diffusion/generators/base.py.
    """

    def __init__(
        self,
        stage: Any,
        context: WorkContext,
        generate: Callable[[Sequence[Any], Sequence[int]], Sequence[Any]],
        encode: Callable[[np.ndarray], bytes] = encode_png,
    ):
        self.stage, self.generate = stage, generate
        self.silence = silence_of(stage.config.weights)
        self.encoder = Encoder(encode)
        self.batcher = Batcher(context.batch_size or stage.config.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def images(
        self, keys: Sequence[str], labels: Sequence[int], origins: Sequence[Any]
    ) -> tuple[Any, list[int], list[Failure]]:
        """(table of IMAGE_SCHEMA, positions of its rows in ``keys``, items without an image); the i-th image
        is made from the i-th origin.

        Raises ResourceError when a generator elsewhere answers for no item, so that nothing is stored and
        the same command asks again.
        """
        seeds = [item_seed(self.stage.seed, "synthetic", key, self.stage.kind) for key in keys]
        silence = ""

        def process(batch: Sequence[int]) -> list[Future[bytes] | ItemError]:
            nonlocal silence
            try:
                images = self.generate([origins[i] for i in batch], [seeds[i] for i in batch])
            except self.silence as error:
                silence = f"the generator gives no answer ({type(error).__name__}: {error})"
                raise ItemError(silence) from error
            return [im if isinstance(im, ItemError) else self.encoder.submit([im])[0] for im in images]

        done, failures = self.batcher.run(range(len(keys)), keys, process)
        if silence and not done:
            raise ResourceError(
                f"{silence[0].upper()}{silence[1:]}: run the same command again once it does."
            )
        failures += [Failure(keys[i], str(result)) for i, result in done if isinstance(result, ItemError)]
        good = [(i, result) for i, result in done if not isinstance(result, ItemError)]
        at = [i for i, _ in good]
        table = image_table(
            [keys[i] for i in at],
            [labels[i] for i in at],
            [encoded.result() for _, encoded in good],
            [seeds[i] for i in at],
        )
        return table, at, failures


def grid_items(params: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(key, class, number within it) of every image of a shard; a key is ``synthetic/0/c0003/i000012``."""
    return [
        (f"synthetic/0/c{c:04d}/i{i:06d}", c, i)
        for i in range(params["start"], params["stop"])
        for c in range(params["first_class"], params["last_class"])
    ]

"""Synthesis stage: labelled images from prompts (Adapt Anything, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from diffadapt.core.artifact import Failure, Input, Rows, Shard, image_table
from diffadapt.core.errors import ItemError, RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.diffusion.generators.pipeline_index import check_settings, pipeline_index
from diffadapt.models.weights import revision
from diffadapt.prompts.text import prompt_index, prompt_key
from diffadapt.stages.image_grid import blocks, grid_identity, weights_label

PROMPTS = "prompts"
"""Kind of the stage whose shards hold the prompts."""


@dataclass(frozen=True)
class TextToImage(Stage):
    """``images_per_class`` images of each of ``num_classes`` classes; image i of a class is made from its
    prompt i mod P.

    Inputs: the prompts (P of them a class, as many as that node plans), and the fitted generator if
    ``weights`` is 'train'. A shard has as inputs exactly the shards of prompts that it reads, so that more
    images or more prompts make what is missing and fork only the images whose prompt changes (those beyond
    the earlier P).
    """

    config: TextToImageConfig = TextToImageConfig()
    num_classes: int = 0
    seed: int = 0

    kind = "synth"

    def label(self) -> str:
        return weights_label(self.config.weights)

    def identity(self) -> dict[str, Any]:
        return grid_identity(self.config, self.seed)

    def revisions(self) -> dict[str, str]:
        return {} if self.config.weights == "train" else {"generator": revision(self.config.weights)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        fitted = tuple(n.as_input() for n in inputs.values() if n.stage.fit_stage)
        if c.weights == "train" and not fitted:
            raise RecipeError(
                "generator.weights is 'train', but this recipe trains no text-to-image model: give a"
                " diffusers folder or a hub id."
            )
        check_settings(c, None if fitted else _known_index(c.weights))
        prompts = next(n for n in inputs.values() if n.stage.kind == PROMPTS)
        count = max(p.shard.params["stop"] for p in prompts.shards)
        shards = []
        for key, params, items in blocks(c, self.num_classes):
            needed = _prompt_indices(params["start"], params["stop"], count)
            read = tuple(
                Input(prompts.name, p.digest)
                for p in prompts.shards
                if _overlaps(p.shard.params, needed, params["first_class"], params["last_class"])
            )
            if params["stop"] > count:
                params["prompts"] = count
            shards.append(Shard(key, params, (*read, *fitted), items))
        return shards

    def open(self, context: WorkContext) -> _Painter:
        return _Painter(self, context)


def _known_index(weights: str) -> Any:
    """What the weights say of themselves; None where planning goes on without them."""
    from diffadapt.core.errors import WeightsError
    from diffadapt.core.leniency import missing

    try:
        return pipeline_index(weights)
    except WeightsError as error:
        missing(error)
        return None


def _prompt_indices(start: int, stop: int, count: int) -> set[int]:
    return {prompt_index(i, count) for i in range(start, min(stop, start + count))}


def _overlaps(params: Mapping[str, Any], needed: Iterable[int], first: int, last: int) -> bool:
    return (
        params["first_class"] < last
        and first < params["last_class"]
        and any(params["start"] <= i < params["stop"] for i in needed)
    )


class _Painter:
    """Holds the pipeline; makes shards."""

    def __init__(self, stage: TextToImage, context: WorkContext):
        from diffadapt.data.image import encode_png
        from diffadapt.diffusion.generators.text_to_image import load_text_to_image
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.encoding import Encoder

        weights = next(iter(context.fitted.values()), stage.config.weights)
        self.stage = stage
        self.generator = load_text_to_image(replace(stage.config, weights=weights), context.device)
        self.encoder = Encoder(lambda image: encode_png(_resized(image, stage.config.store_size)))
        self.batcher = Batcher(context.batch_size or stage.config.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        """Rows of IMAGE_SCHEMA with a further column ``prompt``; keys ``synthetic/0/c0003/i000012``."""
        p = shard.params
        known, lost = _prompts_of(inputs)
        count = p.get("prompts", p["stop"])
        keys, labels, prompts, failures = [], [], [], []
        for i in range(p["start"], p["stop"]):
            for c in range(p["first_class"], p["last_class"]):
                key, source = f"synthetic/0/c{c:04d}/i{i:06d}", prompt_key(c, prompt_index(i, count))
                prompt = known.get(source)
                if prompt is None:
                    failures.append(
                        Failure(
                            key,
                            f"its prompt {source} is missing:"
                            f" {lost.get(source, 'the prompts have no such row')}",
                        )
                    )
                    continue
                keys.append(key), labels.append(c), prompts.append(prompt)
        seeds = [item_seed(self.stage.seed, "synthetic", key, self.stage.kind) for key in keys]

        def process(batch: Sequence[int]) -> list[Future[bytes] | ItemError]:
            images = self.generator.generate([prompts[i] for i in batch], [seeds[i] for i in batch])
            return [
                image if isinstance(image, ItemError) else self.encoder.submit([image])[0] for image in images
            ]

        done, unprocessed = self.batcher.run(range(len(keys)), keys, process)
        failures += unprocessed
        failures += [Failure(keys[i], str(made)) for i, made in done if isinstance(made, ItemError)]
        good = [(i, made) for i, made in done if not isinstance(made, ItemError)]
        index = [i for i, _ in good]
        table = image_table(
            [keys[i] for i in index],
            [labels[i] for i in index],
            [made.result() for _, made in good],
            [seeds[i] for i in index],
        )
        return Rows(table.append_column("prompt", _strings([prompts[i] for i in index])), failures)


def _prompts_of(inputs: Sequence[Rows]) -> tuple[dict[str, str], dict[str, str]]:
    """Prompts by key, and the reasons of those that could not be made."""
    known: dict[str, str] = {}
    lost: dict[str, str] = {}
    for rows in inputs:
        known.update(zip(rows.column("key"), rows.column("prompt"), strict=True))
        lost.update({failure.key: failure.reason for failure in rows.failures})
    return known, lost


def _resized(image: Any, side: int) -> Any:
    """uint8 (H, W, C) scaled to ``side`` by ``side``, antialiased; 0 leaves it."""
    import numpy as np
    from PIL import Image

    from diffadapt.data.image import to_pil

    if not side or image.shape[:2] == (side, side):
        return image
    return np.asarray(to_pil(image).resize((side, side), Image.Resampling.BICUBIC))


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())

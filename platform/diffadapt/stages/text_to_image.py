"""Synthesis stage: labelled images from prompts (Adapt Anything, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from diffadapt.core.artifact import Failure, Input, Rows, Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.image import encode_png, to_pil
from diffadapt.diffusion.generators.base import generator_of
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.diffusion.generators.pipeline_index import check_settings
from diffadapt.prompts.text import prompt_index, prompt_key
from diffadapt.stages.calls import of_latents
from diffadapt.stages.image_grid import (
    GridWorker,
    blocks,
    grid_identity,
    grid_items,
    grid_label,
    grid_revisions,
)

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
        return grid_label(self.config.weights)

    def identity(self) -> dict[str, Any]:
        return grid_identity(self.config, self.seed)

    def revisions(self) -> dict[str, str]:
        return grid_revisions(self.config.weights)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        fitted = tuple(n.as_input() for n in inputs.values() if n.stage.fit_stage)
        if c.weights == "train" and not fitted:
            raise RecipeError(
                "generator.weights is 'train', but this recipe trains no text-to-image model: give a"
                " diffusers folder or a hub id."
            )
        check_settings(c, None)
        if not fitted:
            generator_of(c.weights).check(c)
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

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        halves = 2 if c.guidance > 1 else 1
        return of_latents(
            c.weights, "unet", inputs, c.steps * halves, c.size, precision=c.precision,
            batch=c.batch_size * halves, casts=True,
        )  # fmt: skip

    def open(self, context: WorkContext) -> _Painter:
        return _Painter(self, context)


def _prompt_indices(start: int, stop: int, count: int) -> set[int]:
    return {prompt_index(i, count) for i in range(start, min(stop, start + count))}


def _overlaps(params: Mapping[str, Any], needed: Iterable[int], first: int, last: int) -> bool:
    return (
        params["first_class"] < last
        and first < params["last_class"]
        and any(params["start"] <= i < params["stop"] for i in needed)
    )


class _Painter(GridWorker):
    def __init__(self, stage: TextToImage, context: WorkContext):
        weights = next(iter(context.fitted.values()), stage.config.weights)
        super().__init__(
            stage,
            context,
            generator_of(weights).from_prompts(stage.config, context.device),
            lambda image: encode_png(_resized(image, stage.config.store_size)),
        )

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        """Rows of IMAGE_SCHEMA with a further column ``prompt``."""
        known, lost = _prompts_of(inputs)
        count = shard.params.get("prompts", shard.params["stop"])
        keys, labels, prompts, failures = [], [], [], []
        for key, c, i in grid_items(shard.params):
            source = prompt_key(c, prompt_index(i, count))
            if source in known:
                keys.append(key)
                labels.append(c)
                prompts.append(known[source])
            else:
                why = lost.get(source, "the prompts have no such row")
                failures.append(Failure(key, f"its prompt {source} is missing: {why}"))
        table, at, unmade = self.images(keys, labels, prompts)
        column = pa.array([prompts[i] for i in at], pa.string())
        return Rows(table.append_column("prompt", column), failures + unmade)


def _prompts_of(inputs: Sequence[Rows]) -> tuple[dict[str, str], dict[str, str]]:
    """Prompts by key, and the reasons of those that could not be made."""
    known: dict[str, str] = {}
    lost: dict[str, str] = {}
    for rows in inputs:
        known.update(zip(rows.column("key"), rows.column("prompt"), strict=True))
        lost.update({failure.key: failure.reason for failure in rows.failures})
    return known, lost


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, C) scaled to ``side`` by ``side``, antialiased; 0 leaves it."""
    if not side or image.shape[:2] == (side, side):
        return image
    return np.asarray(to_pil(image).resize((side, side), Image.Resampling.BICUBIC))

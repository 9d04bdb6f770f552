"""Alignment and projection stage: noise and denoise with the unconditional model (SDA sections 4.2 and 4.3).

The same stage aligns synthetic images and projects target images; only its input differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.align.config import AlignConfig
from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.models.weights import revision


@dataclass(frozen=True)
class Align(Stage):
    """One shard for each shard of the images (first input); a trained model may be the second input."""

    config: AlignConfig = AlignConfig()
    seed: int = 0

    kind = "aligned"

    def label(self) -> str:
        c = self.config
        name = "trained" if c.weights == "train" else c.weights.rstrip("/").split("/")[-1].removeprefix("embedded:")
        return f"{name}-{c.guidance}-{c.start}of{c.respacing}"

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self.config, identity_only=True)
        fields.pop("weights")
        if self.config.guidance != "dda-batch":
            fields.pop("coupled_batch")
        if self.config.guidance != "gda":
            fields.pop("gda", None)
        return {"config": fields, "seed": self.seed}

    def revisions(self) -> dict[str, str]:
        return {} if self.config.weights == "train" else {"unconditional": revision(self.config.weights)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        if not 1 <= c.start <= c.respacing:
            raise RecipeError(f"The start level {c.start} must lie between 1 and the {c.respacing} sampling steps (respacing).")
        images, *fitted = inputs.values()
        return one_to_one(images, fitted)

    def open(self, context: WorkContext) -> _Aligner:
        return _Aligner(self, context)


class _Aligner:
    def __init__(self, stage: Align, context: WorkContext):
        from diffadapt.align.project import Projector
        from diffadapt.diffusion.network import load_unconditional
        from diffadapt.stages.batching import Batcher

        c = stage.config
        weights = next(iter(context.fitted.values()), c.weights)
        self.stage = stage
        self.network = load_unconditional(weights, context.device, c.precision, c.compile)
        self.projector = Projector(self.network, c, context.device)
        self.batcher = Batcher(c.coupled_batch if c.guidance == "dda-batch" else context.batch_size or c.batch_size)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np
        import torch

        from diffadapt.align.preprocess import prepare
        from diffadapt.data.image import encode_jpeg, encode_png
        from diffadapt.stages.decoding import decode_rows

        decoded = decode_rows(inputs[0], self.network.channels, lambda a: prepare(a, self.network.image_size))
        seeds = [item_seed(self.stage.seed, "align", key, self.stage.kind) for key in decoded.keys]
        jpeg = self.stage.config.storage == "jpeg75"

        def process(batch: Sequence[int]) -> list[bytes]:
            stacked = np.stack([decoded.images[i] for i in batch])
            x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
            out = self.projector.project(x, [seeds[i] for i in batch]).permute(0, 2, 3, 1).cpu().numpy()
            return [encode_jpeg(image, 75) if jpeg else encode_png(image) for image in out]

        done, failures = self.batcher.run(range(len(decoded.keys)), decoded.keys, process)
        index = [i for i, _ in done]
        table = image_table(
            [decoded.keys[i] for i in index], [decoded.labels[i] for i in index], [b for _, b in done], [seeds[i] for i in index],
            ".jpg" if jpeg else ".png",
        )  # fmt: skip
        return Rows(table, decoded.failures + failures)

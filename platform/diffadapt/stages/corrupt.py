"""Corruption stage: clean images -> every corruption and severity, seeded per image (spec: ImageNet-C
protocol)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Input, Rows, Shard, image_table
from diffadapt.core.config import to_dict
from diffadapt.core.errors import ItemError, RecipeError, suggest
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.config import CORRUPTIONS

WATERMARK = "watermark"


@dataclass(frozen=True)
class Corrupt(Stage):
    """Each shard of the clean images becomes one shard for every corruption and severity.

    ``size`` is the side after a bicubic resize of the short edge to ``resize`` and a centre crop (ImageNet-C:
    256, 224); ``resize`` 0 keeps images as they are. ``jpeg_quality`` 85 stores JPEG as ImageNet-C does, 0
    stores PNG.
    """

    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = (5,)
    channels: int = 3
    resize: int = 256
    size: int = 224
    jpeg_quality: int = 85
    frost_textures: str | None = None
    seed: int = 0

    kind = "corrupted"

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self, identity_only=True)
        fields.pop("corruptions")  # they are in the shards, so that adding a type redoes no other
        fields.pop("severities")
        fields["frost_textures"] = self._textures()
        return fields

    def _textures(self) -> str | None:
        if not self.frost_textures:
            return None
        from diffadapt.models.weights import content_revision

        return content_revision(self.frost_textures)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        for name in self.corruptions:
            if name not in (*CORRUPTIONS, WATERMARK):
                raise RecipeError(
                    f"There is no corruption {name!r}.{suggest(name, CORRUPTIONS)} Known are:"
                    f" {', '.join(CORRUPTIONS)}, {WATERMARK}."
                )
        for severity in self.severities:
            if not 1 <= severity <= 5:
                raise RecipeError(f"Severity {severity} does not exist: severities run from 1 to 5.")
        (clean,) = inputs.values()
        shards = []
        for name in self.corruptions:
            for severity in self.severities:
                for p in clean.shards:
                    group = f"{self.shown_name(name)}/{severity}"
                    tail = p.shard.key.rpartition("-")[2]
                    shards.append(
                        Shard(
                            f"{name}-{severity}-{tail}",
                            {"group": group, "corruption": name, "severity": severity},
                            (Input(clean.name, p.digest),),
                            p.shard.items,
                        )
                    )
        return shards

    def shown_name(self, name: str) -> str:
        """The name in scores and keys: a procedural stand-in for frost or the watermark says so."""
        from diffadapt.data.corruptions import corruption_label
        from diffadapt.data.watermark import watermark_label

        return watermark_label() if name == WATERMARK else corruption_label(name, self.frost_textures)

    def open(self, context: WorkContext) -> _Corrupter:
        return _Corrupter(self)

    def resources(self) -> str:
        return "cpu"


class _Corrupter:
    def __init__(self, stage: Corrupt):
        from diffadapt.data.corruptions import corrupt
        from diffadapt.data.watermark import watermark

        self.stage, self.corrupt, self.watermark = stage, corrupt, watermark

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        from diffadapt.data.image import encode_jpeg, encode_png
        from diffadapt.data.resize import centre_crop_resize
        from diffadapt.stages.decoding import decode_rows

        stage, name = self.stage, shard.params["corruption"]
        prepare = (lambda a: centre_crop_resize(a, stage.resize, stage.size)) if stage.resize else None
        decoded = decode_rows(inputs[0], stage.channels, prepare)
        keys, labels, images, seeds, failures = [], [], [], [], []
        for key, label, image in zip(decoded.keys, decoded.labels, decoded.images, strict=True):
            item = key.split("/", 2)[2]
            new_key = f"{shard.params['group']}/{item}"
            seed = item_seed(stage.seed, "target", new_key, self.stage.kind)
            try:
                made = (
                    self.watermark(image)
                    if name == WATERMARK
                    else self.corrupt(
                        image, name, shard.params["severity"], seed, textures=stage.frost_textures
                    )
                )
            except ItemError as error:
                failures.append(Failure(new_key, str(error)))
                continue
            keys.append(new_key)
            labels.append(label)
            seeds.append(seed)
            images.append(encode_jpeg(made, stage.jpeg_quality) if stage.jpeg_quality else encode_png(made))
        failures += [
            Failure(f"{shard.params['group']}/{f.key.split('/', 2)[2]}", f.reason) for f in decoded.failures
        ]
        return Rows(
            image_table(keys, labels, images, seeds, ".jpg" if stage.jpeg_quality else ".png"), failures
        )

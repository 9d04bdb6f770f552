"""Transfer stage: labelled scenes taken to another domain, measured, judged, and tried again where they are
refused (ZoDi section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, Worker
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.diffusion.translation.checks import uses_layout
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.weights import revision
from diffadapt.stages.image_grid import weights_label
from diffadapt.stages.transfer_checks import check_generator, check_quality

SEGMENTER, PIPELINE = "segmenter.json", "model_index.json"
"""The file that tells a fitted folder: a segmenter, a diffusers pipeline."""


@dataclass(frozen=True)
class TransferScenes(Stage):
    """Inputs: the scenes; the fitted generator (``config.weights`` 'train'); the fitted source-only segmenter
    where quality asks for it.

    One shard for each shard of the scenes, or several of at most ``images_per_shard`` images. Rows of
    SCENE_SCHEMA under the scenes' own keys: the transferred image, its label map (nearest) and boxes at the
    generated size, without a colour map of their own; further columns ``accepted``, ``attempts`` (how many
    were made), ``strength`` (that of the stored one) and ``scores`` (JSON: diffusion/translation/quality.py,
    diffusion/translation/consistency.py, ``reasons``, and of several attempts ``tried``, the reasons of each
    in turn, 'failed' where it gave no image). A scene that is refused every time is stored as its best
    attempt with ``accepted`` false.
    """

    config: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    classes: ClassTable = ClassTable()
    segmenter: SegmenterConfig = SegmenterConfig()
    seed: int = 0

    kind = "transferred"
    may_warn = True

    def label(self) -> str:
        return f"{weights_label(self.config.weights)}-{self.config.method.replace('_', '-')}"

    def identity(self) -> dict[str, Any]:
        """What acts on the images and the decisions: prompt and strength as they are resolved, weights by
        revision, no path."""
        c, domain = to_dict(self.config, identity_only=True), self.config.resolved
        for name in ("weights", "controlnet", "lora", "images_per_shard", "domain"):
            c.pop(name)
        c |= {"prompt": domain.prompt, "strength": domain.strength}
        method = self.config.method
        unused = {
            "aligned": method != "stochastic",
            "strength": method == "layout",
            "source_prompt": method != "edit_friendly" and not self.quality.clip,
            "control_scale": not self.needs_layout,
            "palette": not self.needs_layout,
        }
        for name in (n for n, no in unused.items() if no):
            c.pop(name)
        own: dict[str, Any] = {"config": c, "quality": self._quality_identity(), "seed": self.seed}
        if self.needs_layout or self.quality.needs_model:
            own["classes"] = to_dict(self.classes, identity_only=True)
        if self.quality.needs_model:
            own["segmenter"] = {"size": list(self.segmenter.size), "precision": self.segmenter.precision}
        return own

    def _quality_identity(self) -> dict[str, Any]:
        q = to_dict(self.quality, identity_only=True)
        q.pop("clip")
        if not q["retries"]:
            q.pop("retry"), q.pop("strength_step")
        elif self.quality.retry == "seed":
            q.pop("strength_step")
        return q

    def revisions(self) -> dict[str, str]:
        c = self.config
        weights = {
            "generator": "" if c.weights == "train" else c.weights,
            "controlnet": c.controlnet if self.needs_layout and c.weights != "train" else "",
            "lora": c.lora,
            "clip": self.quality.clip,
        }
        return {role: revision(name) for role, name in weights.items() if name}

    @property
    def needs_layout(self) -> bool:
        """Whether the generator sees the label map: all methods but plain img2img."""
        return uses_layout(self.config)

    def strength(self, attempt: int) -> float:
        """The strength of an attempt, counted from 0."""
        first = self.config.resolved.strength
        return (
            round(first - attempt * self.quality.strength_step, 6)
            if self.quality.retry == "strength"
            else first
        )

    def attempt_seed(self, key: str, attempt: int) -> int:
        """The seed of one attempt at one scene; the first one's does not depend on the quality settings."""
        return item_seed(self.seed, "scenes", key, f"{self.kind}/{attempt}" if attempt else self.kind)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        scenes, *fitted = inputs.values()
        check_generator(self)
        check_quality(self)
        wanted = (self.config.weights == "train") + self.quality.needs_model
        if len(fitted) != wanted:
            raise RecipeError(
                f"The transfer needs {wanted} fitted models (a trained generator where transfer.weights is"
                " 'train', the source-only segmenter where quality.consistency is above 0), but the recipe"
                f" gives it {len(fitted)}."
            )
        also = tuple(node.as_input() for node in fitted)
        shards = []
        for p in scenes.shards:
            count = self.config.images_per_shard or max(p.shard.items, 1)
            group = {"group": p.shard.params["group"]} if "group" in p.shard.params else {}
            read = (Input(scenes.name, p.digest), *also)
            if p.shard.items <= count:
                shards.append(Shard(p.shard.key, group, read, p.shard.items))
                continue
            for first in range(0, p.shard.items, count):
                last = min(first + count, p.shard.items)
                shards.append(
                    Shard(
                        f"{p.shard.key}-{first:04d}",
                        {**group, "first": first, "last": last},
                        read,
                        last - first,
                    )
                )
        return shards

    def open(self, context: WorkContext) -> Worker:
        from diffadapt.stages.transfer_worker import Transferrer

        return Transferrer(self, context)


def fitted_inputs(context: WorkContext) -> tuple[str, str]:
    """The folders of the fitted generator and of the fitted segmenter, empty where there is none."""
    folders = list(context.fitted.values())
    return tuple(
        next((f for f in folders if (Path(f) / name).is_file()), "") for name in (PIPELINE, SEGMENTER)
    )  # type: ignore[return-value]

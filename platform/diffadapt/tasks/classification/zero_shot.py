"""CLIP zero-shot classification of the target, the baseline beside every adapted model (Radford et al.
2021)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.config import stated_precision
from diffadapt.core.errors import RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.models.clip_folder import check_clip
from diffadapt.models.config import ClipConfig
from diffadapt.models.weights import ASSETS, revision
from diffadapt.prompts.text import fill
from diffadapt.tasks.classification.clip_worker import ClipWorker, clip_calls, clip_label


@functools.cache
def standard_templates() -> tuple[str, ...]:
    """The prompt ensemble of CLIP's authors, ``{category}`` in each."""
    lines = (ASSETS / "clip_templates.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


@dataclass(frozen=True)
class ZeroShot(Stage):
    """Input: target images. Rows of LOGITS_SCHEMA: CLIP's logit scale times the cosine of image and class
    text."""

    config: ClipConfig = ClipConfig()
    class_names: tuple[str, ...] = ()
    domain: str = ""

    kind = "zero-shot"

    def label(self) -> str:
        return clip_label(self.config)

    def identity(self) -> dict[str, Any]:
        return {"texts": self.texts(), "precision": stated_precision(self.config)}

    def revisions(self) -> dict[str, str]:
        return {"clip": revision(self.config.weights)}

    def texts(self) -> list[list[str]]:
        """Every class's prompts."""
        templates = self.config.templates or standard_templates()
        return [[fill(template, name, self.domain) for template in templates] for name in self.class_names]

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        wrong = [template for template in self.config.templates if "{category}" not in template]
        if wrong:
            raise RecipeError(
                f"clip.templates has {wrong[0]!r} without {{category}}: every template must say where the"
                " class goes."
            )
        check_clip(self.config.weights)
        (images,) = inputs.values()
        return one_to_one(images)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        return clip_calls(self.config)

    def open(self, context: WorkContext) -> _ZeroShot:
        return _ZeroShot(self, context)


class _ZeroShot(ClipWorker):
    def __init__(self, stage: ZeroShot, context: WorkContext):
        super().__init__(stage.config, context)
        self.classes = self.clip.class_features(stage.texts())

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        return self.vectors(inputs[0], lambda images: self.clip.logits(images, self.classes))

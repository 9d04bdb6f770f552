"""The level of noise that an aligner of few calls starts from, chosen on a sample of target images without
their labels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest, item_seed
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard, Stage
from diffadapt.diffusion.aligners.config import AlignConfig, LevelConfig
from diffadapt.diffusion.given import check_unconditional
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.weights import revision
from diffadapt.stages.calls import of_classifier, of_unconditional
from diffadapt.stages.models import classifier_identity, classifier_revisions, open_classifier

if TYPE_CHECKING:
    import numpy as np

LEVEL = "level"
"""The stage's kind."""
CHOSEN = "level.json"
SPREAD = 4
"""Shards of a group that its images are taken from at most, evenly over it."""


def chosen_level(folder: str | Path) -> int:
    """The level that a finished choice holds."""
    return int(parse((Path(folder) / CHOSEN).read_bytes())["level"])


@dataclass(frozen=True)
class ChooseLevel(Stage):
    """Inputs: target images; then, if they are trained by the recipe, the unconditional model and the source
    classifier.

    A sample of ``choice.images`` images, as many of every group, is projected at every level; the level whose
    predictions by the source classifier score highest by ``choice.rule`` is chosen, the lower one of equals.
    Labels of the rows are not looked at. The folder holds level.json: ``level``, ``scores`` by level,
    ``images``, ``rule``, and ``predicted``: by image the class at every level.
    """

    config: AlignConfig = AlignConfig()
    choice: LevelConfig = LevelConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int | None = None
    seed: int = 0

    kind = LEVEL
    fit_stage = True
    trains = False

    def label(self) -> str:
        return f"{self.config.guidance}-{self.choice.rule}"

    def identity(self) -> dict[str, Any]:
        return {
            "config": self.config.identity(),
            "choice": to_dict(self.choice, identity_only=True),
            "classifier": classifier_identity(self.classifier),
            "seed": self.seed,
        }

    def revisions(self) -> dict[str, str]:
        own = {} if self.config.weights == "train" else {"unconditional": revision(self.config.weights)}
        return own | classifier_revisions(self.classifier, False, self.num_classes)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_unconditional(self.config.weights)
        levels = self.choice.levels
        if len(levels) < 2 or len(set(levels)) < len(levels):
            raise RecipeError(
                f"level.levels is {' '.join(map(str, levels)) or 'empty'}, but a level is chosen among two"
                " different ones or more: give several, or the aligner's level itself."
            )
        for level in levels:
            self.config.at(level).check()
        images, *fitted = inputs.values()
        chosen = [Input(images.name, p.digest) for p in _some(images.shards)]
        items = min(self.choice.images, images.items) * len(levels)
        return [Shard("all", {}, (*chosen, *(node.as_input() for node in fitted)), items)]

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        projected = of_unconditional(
            c.weights, inputs, c.cost, precision=c.precision, batch=c.batch_size, casts=True
        )
        predicted = of_classifier(self.classifier, self.num_classes)
        return None if projected is None or predicted is None else (*projected, *predicted)

    def fit(self, job: FitJob) -> dict[str, Any]:
        """Raises DataError where no target image can be read."""
        import numpy as np
        import torch

        from diffadapt.diffusion.network import load_unconditional
        from diffadapt.diffusion.projector import Projector
        from diffadapt.metrics.validators import of_candidates
        from diffadapt.models.preprocess import to_input

        c, device, fitted = self.config, job.context.device, dict(job.context.fitted)
        weights = fitted.pop(next(iter(fitted))) if c.weights == "train" else c.weights
        network = load_unconditional(weights, device, c.precision, c.compile)
        model = open_classifier(self.classifier, fitted, self.num_classes, device)
        view, size = with_inputs(self.classifier), self.classifier.batch_size
        keys, images = self._sample(job, network.image_size, network.channels)
        seeds = [item_seed(self.seed, "align", key, "aligned") for key in keys]
        x = torch.from_numpy(images).permute(0, 3, 1, 2)

        def predicted(level: int) -> np.ndarray:
            found = Projector(network, c.at(level), device).project(x, seeds).permute(0, 2, 3, 1).numpy()
            pieces = [list(found[i : i + size]) for i in range(0, len(found), size)]
            with torch.inference_mode():
                parts = [model(to_input(piece, view, device)) for piece in pieces]
            return torch.cat(parts).float().cpu().numpy()

        levels = self.choice.levels
        logits = np.stack([predicted(level) for level in levels])
        scores = of_candidates(self.choice.rule, logits)
        best = min(zip((-scores).tolist(), levels, strict=True))[1]
        found = {
            "level": best,
            "rule": self.choice.rule,
            "scores": {str(n): round(float(s), 6) for n, s in zip(levels, scores, strict=True)},
            "images": len(seeds),
        }
        if job.reporter.rank == 0:
            classes = dict(zip(keys, logits.argmax(2).T.tolist(), strict=True))
            (Path(job.output) / CHOSEN).write_text(json.dumps(found | {"predicted": classes}))
        return found

    def _sample(self, job: FitJob, side: int, channels: int) -> tuple[list[str], np.ndarray]:
        """Keys and images uint8 (N, side, side, channels): of every group as many, those whose keys have the
        smallest digests."""
        import numpy as np

        from diffadapt.data.prepare import prepare
        from diffadapt.stages.decoding import decode_rows

        groups: dict[str, list[tuple[str, str, np.ndarray]]] = defaultdict(list)
        for file in (f for f in job.every_input() if not f.fitted):
            decoded = decode_rows(job.read(file), channels, lambda a: prepare(a, side))
            for key, image in zip(decoded.keys, decoded.images, strict=True):
                groups[_group(file.shard)].append((digest(key), key, image))
        if not groups:
            raise DataError("No target image can be read, so that no level of noise can be chosen.")
        each = max(1, self.choice.images // len(groups))
        taken = [item for found in groups.values() for item in sorted(found, key=lambda f: f[:2])[:each]]
        return [key for _, key, _ in taken], np.stack([image for *_, image in taken])


def _group(shard: Shard) -> str:
    return str(shard.params.get("group", ""))


def _some(shards: Sequence[PlannedShard]) -> list[PlannedShard]:
    """At most SPREAD shards of every group, evenly over it."""
    groups: dict[str, list[PlannedShard]] = defaultdict(list)
    for planned in shards:
        groups[_group(planned.shard)].append(planned)
    return [
        found[i * len(found) // n]
        for found in groups.values()
        for n in [min(SPREAD, len(found))]
        for i in range(n)
    ]

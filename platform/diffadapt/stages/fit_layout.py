"""Fit stage that makes a layout-conditional generator from labelled scenes, where no published one is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import FitJob, InputFile, NodePlan, Stage, whole
from diffadapt.data.relight import CAPTIONS, check_appearances, relight
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.stages.roles import row_inputs
from diffadapt.train.layout_config import LayoutFitConfig, check_layout

_LESS = ("step_seconds", "resumed_from", "lr")


@dataclass(frozen=True)
class FitLayout(Stage):
    """Inputs: scenes, one or more nodes, each with its caption. The result is a StableDiffusionControlNetPipeline folder.

    ``appearances`` (names of data/relight.CAPTIONS) add relit copies of every scene with their own captions: so a generator of
    dusk is made of day images alone. The ControlNet sees label maps in the class table's own colours.
    """

    config: LayoutFitConfig = LayoutFitConfig()
    classes: ClassTable = ClassTable()
    captions: tuple[str, ...] = ()
    appearances: tuple[str, ...] = ()

    kind = "layout-generator"
    fit_stage = True

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_layout(self.config)
        check_appearances(self.appearances)
        if len(self.captions) != len(inputs) or not all(c.strip() for c in self.captions):
            raise RecipeError(f"The generator has {len(inputs)} sets of scenes ({', '.join(inputs)}) but {len(self.captions)} captions: give each set one.")
        if not self.classes.names:
            raise RecipeError("The generator needs the class table of its scenes: give scenes with label maps.")
        (shard,) = whole(inputs)
        if not shard.items:
            raise DataError("There are no scenes to train the generator on: check the path and the split.")
        return [shard]

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.models.street_cards import layout_card
        from diffadapt.train.checkpoints import Checkpoints
        from diffadapt.train.layout import train_layout_generator

        examples, scenes, failures = self._examples(job)
        found = train_layout_generator(
            examples, self.config, job.reporter, lambda part: Checkpoints(f"{job.checkpoints.rstrip('/')}/{part}"), job.output
        )
        metrics = {k: float(v) for k, v in found.items() if k not in _LESS} | {"scenes": scenes, "examples": len(examples)}
        if job.reporter.rank == 0:
            card = layout_card(self.classes, self.config, self.captions, self.appearances, metrics)
            (Path(job.output) / "README.md").write_text(card, encoding="utf-8")
        return {**metrics, "quarantined": [[f.key, f.reason] for f in failures]}

    def _examples(self, job: FitJob) -> tuple[Any, int, list[Failure]]:
        """Every example in memory, the number of scenes, and what could not be used. Raises DataError when nothing could."""
        from diffadapt.data.scenes.palettes import paint
        from diffadapt.stages.scene_rows import decode_scenes
        from diffadapt.train.layout_data import LayoutExamples

        config, count = self.config, 0
        examples = LayoutExamples(config.size, config.unit, config.crop, config.flip, config.seed)
        failures: list[Failure] = []
        for caption, files in zip(self.captions, row_inputs(job), strict=True):
            for file, chosen in _chosen(files, config.limit):
                rows = job.read(file)
                keys = set(rows.column("key")[i] for i in chosen if i < len(rows)) if chosen is not None else None
                scenes, bad = decode_scenes(rows)
                failures += bad
                for scene in scenes:
                    if keys is not None and scene.key not in keys:
                        continue
                    if scene.annotation is None:
                        failures.append(Failure(scene.key, f"{scene.key} has no label map, which a layout-conditional generator learns from."))
                        continue
                    count += 1
                    examples.add(paint(scene.annotation, self.classes, "own"), [(caption, scene.image)])
                    if self.appearances:
                        examples.repeat(config.variants - 1)  # as often as each of its appearances
                    examples.add(paint(scene.annotation, self.classes, "own"), self._relit(scene))
        if not len(examples):
            reason = failures[0].reason if failures else "the sets are empty"
            raise DataError(f"There is no scene with a label map to train the generator on ({reason}).")
        return examples, count, failures

    def _relit(self, scene: Any):
        import numpy as np

        for appearance in self.appearances:
            for variant in range(self.config.variants):
                rng = np.random.default_rng(item_seed(self.config.seed, "relight", scene.key, f"{appearance}/{variant}"))
                yield CAPTIONS[appearance], relight(scene.image, scene.annotation, self.classes.names, appearance, rng)


def _chosen(files: Sequence[InputFile], limit: int) -> list[tuple[InputFile, list[int] | None]]:
    """The shards to read and the rows of each (None: all) for at most ``limit`` scenes, evenly spread; 0: all."""
    total = sum(file.shard.items for file in files)
    if not limit or limit >= total:
        return [(file, None) for file in files]
    wanted = {i * total // limit for i in range(limit)}
    found, start = [], 0
    for file in files:
        rows = [i for i in range(file.shard.items) if start + i in wanted]
        start += file.shard.items
        if rows:
            found.append((file, rows))
    return found

"""Fit stage that makes a layout-conditional generator from labelled scenes, where no published one is at
hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.data.scenes.relight import CAPTIONS, check_appearances, relight
from diffadapt.data.scenes.table import ClassTable
from diffadapt.stages.roles import row_inputs
from diffadapt.train.fit import Fit, Trained
from diffadapt.worlds.streets.config import LayoutFitConfig, check_layout


@dataclass(frozen=True)
class FitLayout(Fit):
    """Inputs: scenes, one or more nodes, each with its caption. The result is a
    StableDiffusionControlNetPipeline folder.

    ``appearances`` (names of data/relight.CAPTIONS) add relit copies of every scene with their own captions:
    so a generator of dusk is made of day images alone. The ControlNet sees label maps in the class table's
    own colours.
    """

    config: LayoutFitConfig = LayoutFitConfig()
    classes: ClassTable = ClassTable()
    captions: tuple[str, ...] = ()
    appearances: tuple[str, ...] = ()

    kind = "layout-generator"
    timings = (*Fit.timings, "lr")

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_layout(self.config)
        check_appearances(self.appearances)
        if len(self.captions) != len(inputs) or not all(c.strip() for c in self.captions):
            raise RecipeError(
                f"The generator has {len(inputs)} sets of scenes ({', '.join(inputs)}) but"
                f" {len(self.captions)} captions: give each set one."
            )
        if not self.classes.names:
            raise RecipeError(
                "The generator needs the class table of its scenes: give scenes with label maps."
            )
        (shard,) = whole(inputs)
        if not shard.items:
            raise DataError("There are no scenes to train the generator on: check the path and the split.")
        return [shard]

    def train(self, job: FitJob) -> Trained:
        from diffadapt.train.checkpoints import Checkpoints
        from diffadapt.worlds.streets.cards import layout_card
        from diffadapt.worlds.streets.training import train_layout_generator

        examples, scenes, failures = self._examples(job)
        job.count(failures)
        scalars = train_layout_generator(
            examples,
            self.config,
            job.reporter,
            lambda part: Checkpoints(f"{job.checkpoints.rstrip('/')}/{part}"),
            job.output,
        )

        def save(metrics: dict[str, Any]) -> None:
            card = layout_card(self.classes, self.config, self.captions, self.appearances, metrics)
            (Path(job.output) / "README.md").write_text(card, encoding="utf-8")

        return Trained(scalars, save, {"scenes": scenes, "examples": len(examples)}, failures)

    def _examples(self, job: FitJob) -> tuple[Any, int, list[Failure]]:
        """Every example in memory, the number of scenes, and what could not be used. Raises DataError when
        nothing could."""
        from diffadapt.data.scenes.palettes import paint
        from diffadapt.data.scenes.rows import decode_scenes
        from diffadapt.worlds.streets.batches import LayoutExamples

        config, count = self.config, 0
        examples = LayoutExamples(config.size, config.unit, config.crop, config.flip, config.seed)
        failures: list[Failure] = []
        for caption, files in zip(self.captions, row_inputs(job), strict=True):
            for file in files:
                scenes, bad = decode_scenes(job.read(file))
                failures += bad
                for scene in scenes:
                    if scene.annotation is None:
                        failures.append(
                            Failure(
                                scene.key,
                                f"{scene.key} has no label map, which a layout-conditional generator learns"
                                " from.",
                            )
                        )
                        continue
                    count += 1
                    colours = paint(scene.annotation, self.classes, "own")
                    examples.add(colours, [(caption, scene.image)])
                    if self.appearances:
                        examples.repeat(config.variants - 1)  # as often as each of its appearances
                        examples.add(colours, self._relit(scene))
        if not len(examples):
            reason = failures[0].reason if failures else "the sets are empty"
            raise DataError(f"There is no scene with a label map to train the generator on ({reason}).")
        return examples, count, failures

    def _relit(self, scene: Any) -> Iterator[tuple[str, Any]]:
        """The scene under each appearance, ``variants`` times, with the caption of each."""
        import numpy as np

        for appearance in self.appearances:
            for variant in range(self.config.variants):
                rng = np.random.default_rng(
                    item_seed(self.config.seed, "relight", scene.key, f"{appearance}/{variant}")
                )
                yield (
                    CAPTIONS[appearance],
                    relight(scene.image, scene.annotation, self.classes.names, appearance, rng),
                )

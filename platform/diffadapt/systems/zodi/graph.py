"""What recipes over transferred scenes have in common, whatever is trained on them: sets of scenes, transfer,
models by method and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.core.leniency import missing
from diffadapt.core.pipeline import SOURCE, Builder, Role
from diffadapt.core.stage import Stage
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import published
from diffadapt.data.scenes.table import ClassTable
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.stages.quality import Quality
from diffadapt.stages.scenes import Scenes
from diffadapt.stages.translate import TransferScenes
from diffadapt.systems.checks import check_methods, check_seeds
from diffadapt.systems.zodi.findings import BOTH, OTHERWISE, TRANSFERRED_ONLY, VARIANT

SOURCE_ONLY = "source_only"
ALIASES: dict[str, tuple[str, ...]] = {
    "data": ("source.path", "source_test.path"),
    "source": ("source.path",),
    "source-test": ("source_test.path",),
    "target": ("target.path",),
    "partial": ("source.partial", "source_test.partial", "target.partial"),
    "domain": ("transfer.domain",),
    "generator": ("transfer.weights",),
    "controlnet": ("transfer.controlnet",),
    "epochs": ("training.epochs",),
}


def check_scene_recipe(recipe: Any, methods: Mapping[str, str]) -> None:
    """RecipeError for a recipe without scenes, with unknown methods, or whose seeds and batches do not
    fit."""
    if not recipe.source.path:
        official = published(recipe.source) is not None
        error = RecipeError(
            f"The recipe has no labelled scenes: give --{'data' if official else 'source'}, the root folder"
            " of the data set."
        )
        if not official:
            raise error
        missing(error)
    elif _place(recipe.source_test) == _place(recipe.source):
        raise RecipeError(
            "source_test names the very scenes that source names, and what is trained on cannot be tested on:"
            " give --source-test another folder, or leave it out."
        )
    if not recipe.source.labels:
        raise RecipeError(
            "source.labels is empty, but what is trained on needs its truth: name the source's labels."
        )
    check_methods(recipe.methods, methods)
    check_seeds(recipe.seeds)
    training, workers = recipe.training, max(1, recipe.execution.train_workers)
    if training.seed:
        raise RecipeError(
            f"training.seed is {training.seed}, but training is repeated with each of `seeds`: give --seeds"
            f" {training.seed} instead."
        )
    if training.batch_size % workers:
        raise RecipeError(
            f"training.batch_size is {training.batch_size}, which {workers} workers cannot share evenly: use"
            " a multiple, or another --execution.train-workers."
        )


def _place(data: SceneConfig) -> tuple[Any, ...]:
    return (
        data.path,
        data.layout,
        data.images,
        data.labels,
        data.sequences,
        data.split_file,
        data.condition,
        "" if data.layout in ("folder", "parquet", "coco") else data.split,
    )


class SceneGraph(Builder):
    """Collects the nodes and rows of one recipe. ``sets``: what is predicted ('target', 'source_test', ...)
    -> its node."""

    system = "zodi"

    def __init__(self, recipe: Any):
        super().__init__()
        self.r = recipe
        self.sets: dict[str, str] = {}
        source = Scenes(recipe.source, "source")
        self.classes: ClassTable = source.classes
        self.add("source", source)
        if self._wanted(recipe.target):
            scenes = self.scenes(recipe.target, recipe.transfer.domain, "target")
            self.sets["target"] = self.add("target", scenes, output="target")
        if self._wanted(recipe.source_test):
            scenes = self.scenes(recipe.source_test, "source", "source_test")
            self.sets["source_test"] = self.add("source_test", scenes)

    def _wanted(self, data: SceneConfig) -> bool:
        """Whether there are such scenes; planning without any data, those whose number is published."""
        return bool(data.path) or (not self.r.source.path and published(data) is not None)

    @property
    def transfers(self) -> bool:
        """Whether any method needs transferred images."""
        return set(self.r.methods) != {SOURCE_ONLY}

    def scenes(self, data: SceneConfig, group: str, field: str) -> Scenes:
        """Scenes whose classes are those of the source. Raises RecipeError for others."""
        stage = Scenes(data, group)
        if not data.labels and not data.classes:  # no truth, so no classes
            return stage
        names, own = stage.classes.names, self.classes.names
        if names != own:
            pair = next(((a, b) for a, b in zip(own, names, strict=False) if a != b), None)
            why = (
                f"{pair[1]!r} stands where the source has {pair[0]!r}"
                if pair
                else f"{len(names)} against {len(own)}"
            )
            raise RecipeError(
                f"The classes of {field} are not those of the source ({why}): give {field}.classes a table"
                " with the same names in the same order."
            )
        return stage

    def transfer(
        self,
        name: str,
        scenes: str,
        config: TransferConfig,
        fitted: tuple[str, ...] = (),
        segmenter: SegmenterConfig | None = None,
    ) -> str:
        """Transferred ``scenes``; ``fitted`` are the generator and the judge, where they are trained here."""
        segmenter = segmenter or SegmenterConfig()
        stage = TransferScenes(config, self.r.quality, self.classes, segmenter, self.r.seed)
        return self.add(name, stage, scenes, *fitted)

    def judged(self, transferred: str, name: str) -> str:
        """Quality control's decisions on ``transferred``."""
        return self.add(name, Quality(self.r.quality), transferred)

    def model(self, method: str, stage: Stage, *inputs: str, seed: int, tag: str = "") -> str:
        """A trained model; its name says method and seed."""
        seeds = f"s{seed}" if len(self.r.seeds) > 1 else ""
        return self.add(".".join(n for n in (method, tag, seeds) if n), stage, *inputs)

    def predict(self, model: str, stage: Stage, where: str) -> str:
        """The predictions of ``model`` on the set ``where``."""
        head, dot, tag = model.partition(".")
        return self.add(f"{head}_on_{where}{dot}{tag}", stage, self.sets[where], model)

    def role(self, method: str, titles: Mapping[str, str]) -> Role:
        """What the row of a method means; ``titles``: those of all methods, the nearest to ZoDi last."""
        if method == SOURCE_ONLY:
            return Role(SOURCE)
        if method not in titles:
            return Role(VARIANT, otherwise=OTHERWISE[VARIANT])
        before = [m for m in titles if m in self.r.methods and m != SOURCE_ONLY]
        partner = next((m for m in reversed(before[: before.index(method)])), "")
        # beside transferred images alone, every further one is a training on the source's images too
        otherwise = OTHERWISE[BOTH if partner == TRANSFERRED_ONLY else method] if partner else ""
        return Role(method, titles.get(partner, ""), otherwise)

    def shown(self, metric: str) -> tuple[tuple[str, str], ...]:
        """(title, predictions on the target) of the methods of the first seed, for pictures."""
        return tuple(
            (row.name, row.members[0])
            for row in self.rows
            if row.metric == metric and row.seed == self.r.seeds[0] and not row.control
        )

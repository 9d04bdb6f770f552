"""ZoDi as a recipe type: from labelled scenes and the target domain's name to a segmenter for it, without one image of it.

    source scenes --(transfer to the domain, layout kept)--> transferred --(quality control)--> pairs (x, x', y)
    source only | transferred only | both | both + feature similarity (ZoDi)  ->  label maps of the target, mean IoU

The target's images, where there are any, are for scores and pictures alone (section 4 of the paper: a zero-shot setting).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.data.relight import CAPTIONS
from diffadapt.data.scenes.classes import ClassTable
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.fit_layout import FitLayout
from diffadapt.stages.fit_segmenter import FitSegmenter
from diffadapt.stages.predict_segments import PredictSegments
from diffadapt.stages.quality import Quality
from diffadapt.stages.scene_figures import SceneFigures
from diffadapt.stages.scenes import Scenes
from diffadapt.stages.transfer import TransferScenes
from diffadapt.systems.adaptation_checks import check_once
from diffadapt.train.layout_config import LayoutFitConfig
from diffadapt.train.segmentation_config import SegmentTraining
from diffadapt.transfer.config import QualityConfig, TransferConfig

SOURCE_ONLY = "source_only"
METHODS = {SOURCE_ONLY: "Source only", "transferred_only": "Transferred only", "both": "Source + transferred", "zodi": "ZoDi"}
VARIANTS = {
    "img2img": "plain img2img", "edit_friendly": "edit-friendly inversion", "aligned": "aligned levels", "layout": "layout to image",
    "relight": "relighting without diffusion",
}  # fmt: skip
"""Other transfers that ZoDi's training can be given, as controls."""


@dataclass(frozen=True)
class Zodi:
    """Everything that a run of ZoDi depends on."""

    source: SceneConfig = SceneConfig()
    """Labelled scenes to train on."""
    target: SceneConfig = SceneConfig()
    """Scenes of the target domain, for scores and pictures alone; an empty path: there are none."""
    source_test: SceneConfig = SceneConfig()
    """Labelled scenes like the source's that no training sees: for mIoU on the source, for the estimate, and for best_source."""
    transfer: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    layout: LayoutFitConfig = LayoutFitConfig()
    """How the generator is trained on the source scenes when transfer.weights is 'train'."""
    appearances: tuple[str, ...] = ()
    """Relit copies of the source scenes that such a generator also learns from (dusk, night, fog: data/relight.py)."""
    segmenter: SegmenterConfig = SegmenterConfig()
    training: SegmentTraining = SegmentTraining()
    methods: tuple[str, ...] = tuple(METHODS)
    variants: tuple[str, ...] = ()
    """Controls: ZoDi trained on another transfer (img2img, edit_friendly, aligned, layout, relight)."""
    estimate: int = 100
    """So many of the source's test images are transferred to estimate the performance on the target without it; 0: no estimate."""
    scale: float = 1.0
    """Multiplies every resolution (transfer.size, segmenter.size, training.crop): a run at small scale by one field."""
    seeds: tuple[int, ...] = (0,)
    """Training is repeated with each; the transferred images are the same."""
    figures: bool = True
    seed: int = 0
    """Of the transferred images."""
    execution: ExecutionConfig = ExecutionConfig()

    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {"seed": (0, None), "seeds": (0, None), "estimate": (0, None), "scale": (1e-3, 16)}
    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("source.path", "source_test.path"),
        "source": ("source.path",),
        "source-test": ("source_test.path",),
        "target": ("target.path",),
        "partial": ("source.partial", "source_test.partial", "target.partial"),
        "domain": ("transfer.domain",),
        "generator": ("transfer.weights",),
        "controlnet": ("transfer.controlnet",),
        "backbone": ("segmenter.backbone",),
        "epochs": ("training.epochs",),
    }
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Build(self.scaled())
        graph.build()
        return Pipeline(tuple(graph.nodes), tuple(graph.rows), graph.classes.names, graph.outputs)

    def scaled(self) -> Zodi:
        """The recipe with ``scale`` carried out and set back to 1; sizes are rounded, at least one pixel."""
        if self.scale == 1:
            return self

        def pair(value: tuple[int, int]) -> tuple[int, int]:
            return (max(1, round(value[0] * self.scale)), max(1, round(value[1] * self.scale))) if any(value) else value

        return replace(
            self, scale=1.0,
            transfer=replace(self.transfer, size=max(1, round(self.transfer.size * self.scale))),
            segmenter=replace(self.segmenter, size=pair(self.segmenter.size)),
            training=replace(self.training, crop=pair(self.training.crop)),
        )  # fmt: skip

    def _check(self) -> None:
        if not self.source.path:
            raise RecipeError("The recipe has no labelled scenes: give --source, the root folder of the data set.")
        for given, known, what in ((self.methods, METHODS, "methods"), (self.variants, VARIANTS, "variants")):
            for name in given:
                if name not in known:
                    raise RecipeError(f"{what} has no {name!r}.{suggest(name, known)} Known are: {', '.join(known)}.")
            check_once(what, given)
        if not self.methods:
            raise RecipeError(f"methods is empty: name at least one of {', '.join(METHODS)}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise RecipeError(f"seeds is {list(self.seeds)}: give at least one, each once.")
        if self.training.seed:
            raise RecipeError(f"training.seed is {self.training.seed}, but training is repeated with each of `seeds`: give --seeds {self.training.seed} instead.")
        if self.training.batch_size % max(1, self.execution.train_workers):
            raise RecipeError(f"training.batch_size is {self.training.batch_size}, which {self.execution.train_workers} workers cannot share evenly: use a multiple, or another --execution.train-workers.")
        if self.training.select == "best_source" and not self.source_test.path:
            raise RecipeError("training.select is best_source, but there are no test images of the source: give --source-test, or set it to last.")
        if self.training.select == "oracle" and not self.target.path:
            raise RecipeError("training.select is oracle, but there are no target images: give --target, or set it to last.")
        if "relight" in self.variants and self.transfer.domain not in CAPTIONS:
            raise RecipeError(f"The variant 'relight' needs an appearance of the domain's name, and {self.transfer.domain!r} is none: give one of {', '.join(CAPTIONS)} as the domain, or leave the variant out.")


class _Build:
    """The graph of one recipe."""

    def __init__(self, recipe: Zodi):
        self.r = recipe
        self.nodes: list[Node] = []
        self.rows: list[MethodRow] = []
        self.outputs: dict[str, str] = {}
        self.source = Scenes(recipe.source, "source")
        self.classes: ClassTable = self.source.classes
        self.trains = recipe.transfer.weights == "train"
        self.sets: dict[str, str] = {}
        """What is predicted, 'target', 'source_test' or 'transferred_test' -> its node."""

    def add(self, name: str, stage, *inputs: str) -> str:
        """A node, unless there is one of that name; returns its name."""
        if all(n.name != name for n in self.nodes):
            self.nodes.append(Node(name, stage, inputs))
        return name

    def build(self) -> None:
        r = self.r
        self.add("source", self.source)
        if r.target.path:
            self.sets["target"] = self.outputs["target"] = self.add("target", self._scenes(r.target, r.transfer.domain, "target"))
        if r.source_test.path:
            self.sets["source_test"] = self.add("source_test", self._scenes(r.source_test, "source", "source_test"))
        if self.trains:
            self.outputs["generator"] = self.add("generator", FitLayout(r.layout, self.classes, (r.transfer.source_prompt,), r.appearances), "source")
        transfers = r.methods != (SOURCE_ONLY,)
        if transfers:
            self.outputs["transferred"] = self._transfer("source", r.transfer, "transferred")
            self.outputs["quality"] = self.add("quality", Quality(r.quality), "transferred")
        self._estimate()
        trained = [(m, seed, self._fit(m, seed)) for seed in r.seeds for m in METHODS if m in r.methods]
        trained += [(v, seed, self._variant(v, seed)) for seed in r.seeds for v in r.variants]
        for metric, where in (("miou", "target"), ("miou_source", "source_test"), ("miou_estimated", "transferred_test")):
            for method, seed, model in trained if where in self.sets else ():
                self._row(method, seed, model, where, metric)
        self.outputs["model"] = next(model for m, seed, model in reversed(trained) if m in METHODS and seed == r.seeds[0])
        if r.figures and transfers:
            self._figures(trained)

    def _scenes(self, data: SceneConfig, group: str, field: str) -> Scenes:
        """Scenes whose classes are those of the source. Raises RecipeError for others."""
        stage = Scenes(data, group)
        names = stage.classes.names
        if names != self.classes.names:
            other = next((b for a, b in zip(self.classes.names, names, strict=False) if a != b), f"{len(names)} classes")
            raise RecipeError(f"The classes of {field} are not those of the source ({other!r} is the first that differs): give {field}.classes a table with the same names in the same order.")
        return stage

    def _transfer(self, scenes: str, config: TransferConfig, name: str) -> str:
        r = self.r
        inputs = [scenes, *(["generator"] if self.trains else []), *([self._fit(SOURCE_ONLY, r.seeds[0])] if r.quality.needs_model else [])]
        return self.add(name, TransferScenes(config, r.quality, self.classes, r.segmenter, r.seed), *inputs)

    def _estimate(self) -> None:
        r = self.r
        if not (r.estimate and "source_test" in self.sets and r.methods != (SOURCE_ONLY,)):
            return
        limit = r.estimate if r.source_test.limit is None else min(r.estimate, r.source_test.limit)
        chosen = self.add("estimate_source", Scenes(replace(r.source_test, limit=limit), "source"))
        self.sets["transferred_test"] = self._transfer(chosen, r.transfer, "transferred_test")

    def _fit(self, method: str, seed: int, transferred: str = "transferred", quality: str = "quality", tag: str = "") -> str:
        r = self.r
        training = replace(r.training, seed=seed)
        name = ".".join(n for n in (method, tag, f"s{seed}" if len(r.seeds) > 1 else "") if n)
        inputs = ["source", *([] if method == SOURCE_ONLY else [transferred, quality])]
        if training.select != "last":
            inputs.append(self.sets["source_test" if training.select == "best_source" else "target"])
        return self.add(name, FitSegmenter(r.segmenter, training, self.classes, method), *inputs)

    def _variant(self, variant: str, seed: int) -> str:
        r, name = self.r, f"transferred.{variant}"
        if variant == "relight":
            from diffadapt.stages.relight import RelightScenes

            self.add(name, RelightScenes(r.transfer.domain, self.classes, r.seed), "source")
        else:
            changed = replace(r.transfer, aligned=True) if variant == "aligned" else replace(r.transfer, method=variant)  # type: ignore[arg-type]
            self._transfer("source", changed, name)
        quality = self.add(f"quality.{variant}", Quality(r.quality), name)
        return self._fit("zodi", seed, name, quality, variant)

    def _row(self, method: str, seed: int, model: str, where: str, metric: str) -> None:
        r = self.r
        head, dot, tag = model.partition(".")
        member = self.add(f"{head}_on_{where}{dot}{tag}", PredictSegments(r.segmenter, self.classes), self.sets[where], model)
        title = METHODS.get(method) or f"ZoDi, {VARIANTS[method]}"
        self.rows.append(
            MethodRow(title, (member,), control=method in VARIANTS, seed=seed, selection={"oracle": "oracle"}.get(r.training.select, r.training.select), metric=metric)
        )

    def _figures(self, trained: list[tuple[str, int, str]]) -> None:
        r = self.r
        inputs = ["source", "transferred", "quality"]
        predictions: list[tuple[str, str]] = []
        if "target" in self.sets:
            inputs.append("target")
            for row in self.rows:
                if row.metric == "miou" and row.seed == r.seeds[0] and not row.control:
                    predictions.append((row.name, row.members[0]))
        stage = SceneFigures(self.classes, source="source", transferred="transferred", target=self.sets.get("target", ""), predictions=tuple(predictions))
        self.outputs["figures"] = self.add("figures", stage, *inputs, *(node for _, node in predictions))

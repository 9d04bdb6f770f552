"""Detection by ZoDi's transfer as a recipe type: boxes carry over unchanged, because the transfer keeps the layout.

    source scenes with boxes --(transfer to the domain)--> transferred --(quality control)--> pairs (x, x', boxes)
    source only | transferred only | both  ->  boxes on the target, COCO's mean average precision

The target's images, where there are any, are for scores and pictures alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.detection_figures import DetectionFigures
from diffadapt.stages.fit_detector import FitDetector
from diffadapt.stages.predict_boxes import PredictBoxes
from diffadapt.stages.quality import Quality
from diffadapt.stages.scenes import Scenes
from diffadapt.stages.transfer import TransferScenes
from diffadapt.systems.adaptation_checks import check_once
from diffadapt.train.detection_config import DetectionTraining
from diffadapt.transfer.config import QualityConfig, TransferConfig

SOURCE_ONLY = "source_only"
METHODS = {SOURCE_ONLY: "Source only", "transferred_only": "Transferred only", "both": "Source + transferred"}


@dataclass(frozen=True)
class ZodiDetection:
    """Everything that a run of detection depends on."""

    source: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes with boxes to train on."""
    target: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes of the target domain, for scores and pictures alone; an empty path: there are none."""
    source_test: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes like the source's that no training sees, for the detectors' precision on the source; an empty path: none."""
    transfer: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    detector: DetectorConfig = DetectorConfig()
    training: DetectionTraining = DetectionTraining()
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0,)
    """Training is repeated with each; the transferred images are the same."""
    figures: bool = True
    seed: int = 0
    """Of the transferred images."""
    execution: ExecutionConfig = ExecutionConfig()

    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {"seed": (0, None), "seeds": (0, None)}
    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("source.path", "source_test.path"),
        "source": ("source.path",),
        "source-test": ("source_test.path",),
        "target": ("target.path",),
        "domain": ("transfer.domain",),
        "generator": ("transfer.weights",),
        "controlnet": ("transfer.controlnet",),
        "backbone": ("detector.backbone",),
        "epochs": ("training.epochs",),
    }
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Build(self)
        graph.build()
        return Pipeline(tuple(graph.nodes), tuple(graph.rows), graph.classes.names, graph.outputs)

    def _check(self) -> None:
        if not self.source.path:
            raise RecipeError("The recipe has no scenes with boxes: give --source, the root folder of the data set.")
        for name in self.methods:
            if name not in METHODS:
                raise RecipeError(f"methods has no {name!r}.{suggest(name, METHODS)} Known are: {', '.join(METHODS)}.")
        check_once("methods", self.methods)
        if not self.methods:
            raise RecipeError(f"methods is empty: name at least one of {', '.join(METHODS)}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise RecipeError(f"seeds is {list(self.seeds)}: give at least one, each once.")
        if self.training.seed:
            raise RecipeError(f"training.seed is {self.training.seed}, but training is repeated with each of `seeds`: give --seeds {self.training.seed} instead.")
        if self.training.batch_size % max(1, self.execution.train_workers):
            raise RecipeError(f"training.batch_size is {self.training.batch_size}, which {self.execution.train_workers} workers cannot share evenly: use a multiple, or another --execution.train-workers.")
        if self.quality.needs_model:
            raise RecipeError("quality.consistency asks a segmenter, and detection trains none: set it to 0, and use edges, luminance or clip_score.")
        if self.transfer.weights == "train":
            raise RecipeError("transfer.weights is 'train', but detection trains no generator: give a folder that a recipe of segmentation made, a hub id, or embedded:streets.")


class _Build:
    """The graph of one recipe."""

    def __init__(self, recipe: ZodiDetection):
        self.r = recipe
        self.nodes: list[Node] = []
        self.rows: list[MethodRow] = []
        self.outputs: dict[str, str] = {}
        self.source = Scenes(recipe.source, "source")
        self.classes = self.source.classes
        self.sets: dict[str, str] = {}
        """What is predicted, 'target' or 'source_test' -> its node."""

    def add(self, name: str, stage, *inputs: str) -> str:
        """A node; returns its name."""
        self.nodes.append(Node(name, stage, inputs))
        return name

    def build(self) -> None:
        r = self.r
        self.add("source", self.source)
        if r.target.path:
            self.sets["target"] = self.outputs["target"] = self.add("target", Scenes(r.target, r.transfer.domain))
        if r.source_test.path:
            self.sets["source_test"] = self.add("source_test", Scenes(r.source_test, "source"))
        transfers = r.methods != (SOURCE_ONLY,)
        if transfers:
            self.outputs["transferred"] = self.add("transferred", TransferScenes(r.transfer, r.quality, self.classes, SegmenterConfig(), r.seed), "source")
            self.outputs["quality"] = self.add("quality", Quality(r.quality), "transferred")
        trained = [(m, seed, self._fit(m, seed)) for seed in r.seeds for m in METHODS if m in r.methods]
        for metric, where in (("map", "target"), ("map_source", "source_test")):
            for method, seed, model in trained if where in self.sets else ():
                self._row(method, seed, model, where, metric)
        self.outputs["model"] = next(model for _, seed, model in reversed(trained) if seed == r.seeds[0])
        if r.figures and transfers:
            self._figures()

    def _fit(self, method: str, seed: int) -> str:
        r = self.r
        name = f"{method}.s{seed}" if len(r.seeds) > 1 else method
        inputs = ["source", *([] if method == SOURCE_ONLY else ["transferred", "quality"])]
        return self.add(name, FitDetector(r.detector, replace(r.training, seed=seed), self.classes, method), *inputs)

    def _row(self, method: str, seed: int, model: str, where: str, metric: str) -> None:
        head, dot, tag = model.partition(".")
        member = self.add(f"{head}_on_{where}{dot}{tag}", PredictBoxes(self.r.detector, self.classes), self.sets[where], model)
        title = METHODS[method] + (" + similarity" if method == "both" and self.r.training.similarity else "")
        self.rows.append(MethodRow(title, (member,), seed=seed, metric=metric))

    def _figures(self) -> None:
        predictions = [(row.name, row.members[0]) for row in self.rows if row.metric == "map" and row.seed == self.r.seeds[0]]
        stage = DetectionFigures(self.classes, "source", "transferred", self.sets.get("target", ""), tuple(predictions))
        inputs = ["source", "transferred", *([self.sets["target"]] if predictions else []), *(node for _, node in predictions)]
        self.outputs["figures"] = self.add("figures", stage, *inputs)

"""Detection by ZoDi's transfer as a recipe type: boxes carry over unchanged, because the transfer keeps the
layout.

    source scenes with boxes --(transfer to the domain)--> transferred --(quality control)--> pairs (x, x',
    boxes) source only | transferred only | both  ->  boxes on the target, COCO's mean average precision

The target's images, where there are any, are for scores and pictures alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import MethodRow, Pipeline
from diffadapt.core.ranges import Seed
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.metrics.detection import MAP
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.normalisation import with_normalisation
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.zodi.graph import ALIASES, SOURCE_ONLY, SceneGraph, check_scene_recipe
from diffadapt.tasks.detection.config import DetectionTraining
from diffadapt.tasks.detection.figures import DetectionFigures
from diffadapt.tasks.detection.fit import FitDetector
from diffadapt.tasks.detection.predict import PredictBoxes

METHODS = {SOURCE_ONLY: "Source only", "transferred_only": "Transferred only", "both": "Source + transferred"}


@dataclass(frozen=True)
class ZodiDetection:
    """Everything that a run of detection depends on."""

    source: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes with boxes to train on."""
    target: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes of the target domain, for scores and pictures alone; an empty path: there are none."""
    source_test: SceneConfig = SceneConfig(layout="coco", labels="annotations.json")
    """Scenes like the source's that no training sees, for the detectors' precision on the source; an empty
    path: none."""
    transfer: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    detector: DetectorConfig = DetectorConfig()
    training: DetectionTraining = DetectionTraining()
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[Seed, ...] = (0,)
    """Training is repeated with each; the transferred images are the same."""
    figures: bool = True
    seed: Seed = 0
    """Of the transferred images."""
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {**ALIASES, "backbone": ("detector.backbone",)}
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Build(self.resolved)
        graph.build()
        return graph.pipeline(graph.classes.names)

    @property
    def resolved(self) -> ZodiDetection:
        """The recipe with the input that its detector's weights want."""
        return replace(self, detector=with_normalisation(self.detector))

    def _check(self) -> None:
        check_scene_recipe(self, METHODS)
        if self.quality.needs_model:
            raise RecipeError(
                "quality.consistency asks a segmenter, and detection trains none: set it to 0, and use edges,"
                " luminance or clip_score."
            )
        if self.transfer.weights == "train":
            raise RecipeError(
                "transfer.weights is 'train', but detection trains no generator: give a folder that a recipe"
                " of segmentation made, a hub id, or embedded:streets."
            )


class _Build(SceneGraph):
    """The graph of one recipe."""

    r: ZodiDetection

    def build(self) -> None:
        r = self.r
        if self.transfers:
            self.outputs["transferred"] = self.transfer("transferred", "source", r.transfer)
            self.outputs["quality"] = self.judged("transferred", "quality")
        trained = [(m, seed, self._fit(m, seed)) for seed in r.seeds for m in METHODS if m in r.methods]
        similarity = {"both": f"{METHODS['both']} + similarity"} if r.training.similarity else {}
        titles = {**METHODS, **similarity}
        for metric, where in ((MAP, "target"), (MAP.on("source"), "source_test")):
            for method, seed, model in trained if where in self.sets else ():
                member = self.predict(model, PredictBoxes(r.detector, self.classes), where)
                role = self.role(method, titles)
                self.rows.append(
                    MethodRow(titles[method], (member,), seed=seed, metric=metric.name, role=role)
                )
        self.outputs["model"] = [model for _, seed, model in trained if seed == r.seeds[0]][-1]
        if r.figures and self.transfers:
            shown = self.shown(MAP.name)
            target = self.sets.get("target", "")
            stage = DetectionFigures(self.classes, "source", "transferred", target, shown)
            inputs = ["source", "transferred", *([target] if shown else [])]
            self.add("figures", stage, *inputs, *(node for _, node in shown), output="figures")

    def _fit(self, method: str, seed: int) -> str:
        r = self.r
        inputs = ["source", *([] if method == SOURCE_ONLY else ["transferred", "quality"])]
        fit = FitDetector(r.detector, replace(r.training, seed=seed), self.classes, method)
        return self.model(method, fit, *inputs, seed=seed)

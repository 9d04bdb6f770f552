"""SDA for segmenters as a recipe type: the framework of the paper, as its authors apply it to segmentation in
its published version (Guo et al., CVPR 2025), on labelled scenes.

    source scenes -> source segmenter, unconditional model
    label maps of the source -> layout to image -> aligned by the unconditional model -> fine-tuned segmenter
    target scenes -> projected by the unconditional model
    source segmenter on the target + fine-tuned segmenter on the projected target  ->  label maps, mean IoU

Target images are projected one by one and never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import PART, RESULT, SOURCE, Builder, MethodRow, Pipeline, Role
from diffadapt.core.ranges import Between, Positive, Seed
from diffadapt.data.config import CORRUPTIONS
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.metrics.segmentation import MIOU
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.fit_generator import FitGenerator
from diffadapt.stages.scene_images import AlignScenes, CorruptScenes
from diffadapt.stages.scenes import Scenes
from diffadapt.stages.translate import TransferScenes
from diffadapt.systems.checks import check_known, check_methods, check_once, check_seeds
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.tasks.segmentation.ensemble import PredictTogether
from diffadapt.tasks.segmentation.fit import FitSegmenter
from diffadapt.tasks.segmentation.predict import PredictSegments
from diffadapt.train.config import DiffusionFitConfig

METHODS = {"source": "Source", "dda": "DDA", "sda": "SDA"}
CONTROLS = {
    "nonaligned": "SDA without alignment",
    "projection": "Projection only",
    "finetuned": "Fine-tuned model on projected images",
    "unprojected": "SDA without projection",
    "self": "Source with itself",
}
SHOWN = "this run does not show that"


@dataclass(frozen=True)
class SDASegmentation:
    """Everything that a run of SDA on scenes depends on."""

    source: SceneConfig = SceneConfig()
    """Labelled scenes: the segmenter and the unconditional model are trained on them, and their label maps
    are what images are generated from."""
    target: SceneConfig = SceneConfig()
    """Labelled scenes without corruption; they are corrupted here and scored."""
    corruptions: tuple[str, ...] = CORRUPTIONS
    """Of ImageNet-C; none: the target as it is."""
    severities: tuple[Annotated[int, Between(1, 5)], ...] = (5,)
    image_size: Positive = 256
    """Side that all images and label maps are brought to: the unconditional model takes squares."""
    layout_to_image: TransferConfig = TransferConfig(
        method="layout", domain="source", prompt="driving in the daytime", strength=1.0, palette="ade20k"
    )
    """The conditional model: pictures of the source's domain from its label maps."""
    align: AlignConfig = AlignConfig(weights="train")
    unconditional_fit: DiffusionFitConfig = DiffusionFitConfig(architecture="unet")
    """How the unconditional model is trained on the source scenes when align.weights is 'train'."""
    segmenter: SegmenterConfig = SegmenterConfig()
    training: SegmentTraining = SegmentTraining()
    """Of the source segmenter."""
    finetune: SegmentTraining = SegmentTraining(epochs=15, lr=1e-4)
    """Of the source segmenter on aligned synthetic scenes."""
    methods: tuple[str, ...] = tuple(METHODS)
    controls: tuple[str, ...] = tuple(CONTROLS)
    """nonaligned: fine-tuned on synthetic scenes as they were generated; projection: the source segmenter on
    projected images alone; finetuned: without the ensemble; unprojected: both segmenters on the target's own
    images; self: the ensemble of the source segmenter with itself, which has to be Source."""
    seeds: tuple[Seed, ...] = (0,)
    """Segmenters are trained with each; images are the same."""
    seed: Seed = 0
    """Of the images."""
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "source": ("source.path",),
        "target": ("target.path",),
        "epochs": ("training.epochs", "finetune.epochs"),
        "generator": ("layout_to_image.weights",),
        "backbone": ("segmenter.backbone",),
    }
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Graph(self.resolved)
        graph.build()
        return graph.pipeline(graph.classes.names)

    @property
    def resolved(self) -> SDASegmentation:
        """The recipe with the input that its segmenter's weights want."""
        return replace(self, segmenter=with_normalisation(self.segmenter))

    def _check(self) -> None:
        for what, place in (("source", self.source.path), ("target", self.target.path)):
            if not place:
                raise RecipeError(
                    f"The recipe has no {what} scenes: give --{what}, a folder of labelled scenes."
                )
        check_methods(self.methods, METHODS)
        check_known("controls", self.controls, CONTROLS)
        check_once("controls", self.controls)
        check_seeds(self.seeds)
        for name in ("training", "finetune"):
            settings: SegmentTraining = getattr(self, name)
            if settings.seed:
                raise RecipeError(
                    f"{name}.seed is {settings.seed}, but trainings are repeated with each of `seeds`: give"
                    f" --seeds {settings.seed} instead."
                )
            if settings.select != "last":
                raise RecipeError(
                    f"{name}.select is {settings.select}, but SDA keeps the last epoch: set it to last."
                )
        if self.layout_to_image.method != "layout":
            raise RecipeError(
                f"layout_to_image.method is {self.layout_to_image.method}, which starts from source images:"
                " set it to layout."
            )
        if self.layout_to_image.weights == "train":
            raise RecipeError(
                "layout_to_image.weights is 'train', which this recipe cannot: train one with"
                " zodi/weights, or name existing weights."
            )


class _Graph(Builder):
    """Builds the nodes of one recipe."""

    system = "sda_scenes"

    def __init__(self, recipe: SDASegmentation):
        super().__init__()
        self.r = recipe
        self.source = Scenes(self._sized(recipe.source), "source")
        self.classes = self.source.classes

    def build(self) -> None:
        r = self.r
        self.add("source", self.source)
        clean = Scenes(self._sized(r.target), "target" if not r.corruptions else "clean")
        names = clean.classes.names
        if names != self.classes.names:
            raise RecipeError(
                "The classes of the target are not those of the source: give target.classes a table with the"
                " same names in the same order."
            )
        if r.corruptions:
            self.add("clean", clean)
            corrupted = CorruptScenes(r.corruptions, r.severities, size=r.image_size, seed=r.seed)
            self.add("target", corrupted, "clean", output="target")
        else:
            self.add("target", clean, output="target")
        for seed in r.seeds:
            self._rows(seed)

    def _rows(self, seed: int) -> None:
        r = self.r
        chosen = {*r.methods, *r.controls}
        source = self._fit("segmenter", "source", r.training, seed)
        self._row(seed, "source", self._alone("source_on_target", "target", source), Role(SOURCE))
        if "dda" in chosen:
            member = self._both("dda", "target", self._projected(), source, source)
            self._row(seed, "dda", member, Role("method", "Source"))
        if chosen & {"sda", "finetuned", "unprojected"}:
            tuned = self._fit("finetuned", self._aligned(), r.finetune, seed, source)
            if "sda" in chosen:
                member = self._both("sda", "target", self._projected(), source, tuned)
                self._row(seed, "sda", member, Role(RESULT, "DDA"))
            if "finetuned" in chosen:
                member = self._alone("finetuned_on_projected", self._projected(), tuned)
                self._control(seed, "finetuned", member, "the ensemble with the source segmenter helps")
            if "unprojected" in chosen:
                member = self._both("unprojected", "target", "target", source, tuned)
                self._control(seed, "unprojected", member, "the projection helps")
        if "nonaligned" in chosen:
            other = self._fit("nonaligned_model", self._synthetic(), r.finetune, seed, source)
            member = self._both("nonaligned", "target", self._projected(), source, other)
            self._control(seed, "nonaligned", member, "alignment helps")
        if "projection" in chosen:
            member = self._alone("source_on_projected", self._projected(), source)
            self._control(seed, "projection", member, "more than the projection helps", PART)
        if "self" in chosen:
            member = self._both("self", "target", "target", source, source)
            self._control(seed, "self", member, "more than the sum of two equal maps helps")

    def _sized(self, data: SceneConfig) -> SceneConfig:
        return replace(data, size=(self.r.image_size, self.r.image_size))

    def _uncond(self) -> tuple[str, ...]:
        r = self.r
        if r.align.weights != "train":
            return ()
        fit = FitGenerator(r.unconditional_fit, 0, r.image_size, 3)
        return (self.add("unconditional", fit, "source", output="unconditional"),)

    def _synthetic(self) -> str:
        stage = TransferScenes(self.r.layout_to_image, QualityConfig(), self.classes, seed=self.r.seed)
        return self.add("synthetic", stage, "source", output="synth")

    def _aligned(self) -> str:
        return self._through("aligned", self._synthetic())

    def _projected(self) -> str:
        return self._through("projected", "target")

    def _through(self, name: str, scenes: str) -> str:
        return self.add(name, AlignScenes(self.r.align, self.r.seed), scenes, *self._uncond(), output=name)

    def _fit(self, name: str, scenes: str, training: SegmentTraining, seed: int, *start: str) -> str:
        fit = FitSegmenter(self.r.segmenter, replace(training, seed=seed), self.classes, "source_only")
        return self.add(self._named(name, seed), fit, scenes, *start)

    def _named(self, name: str, seed: int) -> str:
        return f"{name}.s{seed}" if len(self.r.seeds) > 1 else name

    def _alone(self, name: str, scenes: str, model: str) -> str:
        tag = model.partition(".")[2]
        stage = PredictSegments(self.r.segmenter, self.classes)
        return self.add(f"{name}.{tag}" if tag else name, stage, scenes, model)

    def _both(self, name: str, scenes: str, others: str, first: str, second: str) -> str:
        """The ensemble of ``first`` on ``scenes`` and ``second`` on ``others``; equal ones stand once."""
        tag = first.partition(".")[2]
        stage = PredictTogether(self.r.segmenter, self.classes)
        inputs = tuple(dict.fromkeys((scenes, others, first, second)))
        return self.add(f"{name}.{tag}" if tag else name, stage, *inputs)

    def _row(self, seed: int, method: str, member: str, role: Role) -> None:
        if method in self.r.methods:
            title = METHODS[method]
            self.rows.append(MethodRow(title, (member,), seed=seed, metric=MIOU.name, role=role))

    def _control(self, seed: int, control: str, member: str, what: str, kind: str = "control") -> None:
        if control in self.r.controls:
            role = Role(kind, otherwise=f"{SHOWN} {what}")
            title = CONTROLS[control]
            self.rows.append(
                MethodRow(title, (member,), control=True, seed=seed, metric=MIOU.name, role=role)
            )

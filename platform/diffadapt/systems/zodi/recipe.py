"""ZoDi as a recipe type: from labelled scenes and the target domain's name to a segmenter for it, without one
image of it.

    source scenes --(transfer to the domain, layout kept)--> transferred --(quality control)--> pairs (x, x',
    y) source only | transferred only | both | both + feature similarity (ZoDi)  ->  label maps of the target,
    mean IoU

The target's images, where there are any, are for scores and pictures alone (section 4 of the paper: a
zero-shot setting).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import MethodRow, Pipeline
from diffadapt.core.ranges import Between, Natural, Seed
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.relight import CAPTIONS
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.metrics.segmentation import MIOU
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.relight import RelightScenes
from diffadapt.stages.scenes import Scenes
from diffadapt.systems.checks import check_known, check_once
from diffadapt.systems.zodi.graph import ALIASES, SOURCE_ONLY, SceneGraph, check_scene_recipe
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.tasks.segmentation.figures import SceneFigures
from diffadapt.tasks.segmentation.fit import FitSegmenter
from diffadapt.tasks.segmentation.predict import PredictSegments
from diffadapt.worlds.streets.config import LayoutFitConfig
from diffadapt.worlds.streets.fit import FitLayout

METHODS = {
    SOURCE_ONLY: "Source only",
    "transferred_only": "Transferred only",
    "both": "Source + transferred",
    "zodi": "ZoDi",
}
VARIANTS = {
    "no_inversion": "ControlNet without inversion",
    "no_control": "inversion without ControlNet",
    "img2img": "plain img2img",
    "edit_friendly": "edit-friendly inversion",
    "aligned": "aligned levels",
    "layout": "layout to image",
    "relight": "relighting without diffusion",
}
"""Other transfers that ZoDi's training can be given, as controls. The first three with ZoDi itself are the
four cells of the paper's ablation: ControlNet yes or no, stochastic inversion yes or no (figure 5)."""
CHANGES: dict[str, dict[str, Any]] = {
    "no_inversion": {"method": "controlnet_img2img"},
    "no_control": {"control_scale": 0.0},
    "aligned": {"aligned": True},
}
"""What the transfer of a variant differs in; of others the method has the variant's name."""


@dataclass(frozen=True)
class Zodi:
    """Everything that a run of ZoDi depends on."""

    source: SceneConfig = SceneConfig()
    """Labelled scenes to train on."""
    target: SceneConfig = SceneConfig()
    """Scenes of the target domain, for scores and pictures alone; an empty path: there are none."""
    source_test: SceneConfig = SceneConfig()
    """Labelled scenes like the source's that no training sees: for mIoU on the source, for the estimate, and
    for best_source."""
    transfer: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    layout: LayoutFitConfig = LayoutFitConfig()
    """How the generator is trained on the source scenes when transfer.weights is 'train'."""
    appearances: tuple[str, ...] = ()
    """Relit copies of the source scenes that such a generator also learns from (dusk, night, fog:
    data/scenes/relight.py)."""
    segmenter: SegmenterConfig = SegmenterConfig()
    training: SegmentTraining = SegmentTraining()
    methods: tuple[str, ...] = tuple(METHODS)
    variants: tuple[str, ...] = ()
    """Controls: ZoDi trained on another transfer (no_inversion, no_control, img2img: neither; edit_friendly,
    aligned, layout, relight)."""
    estimate: Natural = 100
    """So many of the source's test images are transferred to estimate the performance on the target without
    it; 0: no estimate."""
    scale: Annotated[float, Between(0.001, 16)] = 1.0
    """Multiplies every resolution (of transfer, segmenter, crops, and of a generator trained here): a run at
    small scale by one field."""
    seeds: tuple[Seed, ...] = (0,)
    """Training is repeated with each; the transferred images are the same."""
    figures: bool = True
    seed: Seed = 0
    """Of the transferred images."""
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {**ALIASES, "backbone": ("segmenter.backbone",)}
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Build(self.resolved.scaled())
        graph.build()
        return graph.pipeline(graph.classes.names)

    @property
    def resolved(self) -> Zodi:
        """The recipe with the input that its segmenter's weights want."""
        return replace(self, segmenter=with_normalisation(self.segmenter))

    def scaled(self) -> Zodi:
        """The recipe with ``scale`` carried out and set back to 1; sizes are rounded, at least one pixel."""
        if self.scale == 1:
            return self

        def pair(value: tuple[int, int]) -> tuple[int, int]:
            return (
                (max(1, round(value[0] * self.scale)), max(1, round(value[1] * self.scale)))
                if any(value)
                else value
            )

        return replace(
            self,
            scale=1.0,
            transfer=replace(self.transfer, size=max(1, round(self.transfer.size * self.scale))),
            segmenter=replace(self.segmenter, size=pair(self.segmenter.size)),
            training=replace(self.training, crop=pair(self.training.crop)),
            layout=self.layout
            if not self.layout.size
            else replace(
                self.layout,
                size=pair((self.layout.size, 1))[0],
                crop=_multiples(pair(self.layout.crop), self.layout.unit),
            ),
        )

    def _check(self) -> None:
        check_scene_recipe(self, METHODS)
        check_known("variants", self.variants, VARIANTS)
        check_once("variants", self.variants)
        if self.training.select == "best_source" and not self.source_test.path:
            raise RecipeError(
                "training.select is best_source, but there are no test images of the source: give"
                " --source-test, or set it to last."
            )
        if self.training.select == "oracle" and not self.target.path:
            raise RecipeError(
                "training.select is oracle, but there are no target images: give --target, or set it to last."
            )
        if "relight" in self.variants and self.transfer.domain not in CAPTIONS:
            raise RecipeError(
                "The variant 'relight' needs an appearance of the domain's name, and"
                f" {self.transfer.domain!r} is none: give one of {', '.join(CAPTIONS)} as the domain, or"
                " leave the variant out."
            )


def _multiples(size: tuple[int, int], unit: int) -> tuple[int, int]:
    """The nearest sides that ``unit`` divides, at least one unit; (0, 0) stays."""
    return (max(1, round(size[0] / unit)) * unit, max(1, round(size[1] / unit)) * unit) if any(size) else size


class _Build(SceneGraph):
    """The graph of one recipe."""

    r: Zodi

    def build(self) -> None:
        r = self.r
        if r.transfer.weights == "train":
            fit = FitLayout(r.layout, self.classes, (r.transfer.source_prompt,), r.appearances)
            self.add("generator", fit, "source", output="generator")
        if self.transfers:
            self.outputs["transferred"] = self._transfer("transferred", "source", r.transfer)
            self.outputs["quality"] = self.judged("transferred", "quality")
            self._estimate()
        trained = [(m, seed, self._fit(m, seed)) for seed in r.seeds for m in METHODS if m in r.methods]
        trained += [(v, seed, self._variant(v, seed)) for seed in r.seeds for v in r.variants]
        where = {MIOU: "target", MIOU.on("source"): "source_test", MIOU.on("estimated"): "transferred_test"}
        for metric, place in where.items():
            for method, seed, model in trained if place in self.sets else ():
                title = METHODS.get(method) or f"ZoDi, {VARIANTS[method]}"
                member = self.predict(model, PredictSegments(r.segmenter, self.classes), place)
                self.rows.append(
                    MethodRow(
                        title,
                        (member,),
                        control=method in VARIANTS,
                        seed=seed,
                        selection=r.training.select,
                        metric=metric.name,
                        role=self.role(method, METHODS),
                    )
                )
        own = [model for m, seed, model in trained if m in METHODS and seed == r.seeds[0]]
        self.outputs["model"] = own[-1]
        if r.figures and self.transfers:
            shown = self.shown(MIOU.name)
            stage = SceneFigures(
                self.classes,
                source="source",
                transferred="transferred",
                target=self.sets.get("target", ""),
                predictions=shown,
            )
            inputs = ["source", "transferred", "quality", *([self.sets["target"]] if shown else [])]
            self.add("figures", stage, *inputs, *(node for _, node in shown), output="figures")

    def _transfer(self, name: str, scenes: str, config: TransferConfig) -> str:
        judge = [self._fit(SOURCE_ONLY, self.r.seeds[0])] if self.r.quality.needs_model else []
        generator = ["generator"] if "generator" in self.outputs else []
        return self.transfer(name, scenes, config, (*generator, *judge), self.r.segmenter)

    def _estimate(self) -> None:
        r = self.r
        if r.estimate and "source_test" in self.sets:
            limit = r.estimate if r.source_test.limit is None else min(r.estimate, r.source_test.limit)
            chosen = self.add("estimate_source", Scenes(replace(r.source_test, limit=limit), "source"))
            self.sets["transferred_test"] = self._transfer("transferred_test", chosen, r.transfer)

    def _fit(
        self,
        method: str,
        seed: int,
        transferred: str = "transferred",
        quality: str = "quality",
        tag: str = "",
    ) -> str:
        r = self.r
        inputs = ["source", *([] if method == SOURCE_ONLY else [transferred, quality])]
        if r.training.select != "last":
            inputs.append(self.sets["source_test" if r.training.select == "best_source" else "target"])
        fit = FitSegmenter(r.segmenter, replace(r.training, seed=seed), self.classes, method)
        return self.model(method, fit, *inputs, seed=seed, tag=tag)

    def _variant(self, variant: str, seed: int) -> str:
        r, name = self.r, f"transferred.{variant}"
        if variant == "relight":
            self.add(name, RelightScenes(r.transfer.domain, self.classes, r.seed), "source")
        else:
            changes = CHANGES.get(variant, {"method": variant})
            self._transfer(name, "source", replace(r.transfer, **changes))
        return self._fit("zodi", seed, name, self.judged(name, f"quality.{variant}"), variant)

"""Adapt Anything as a recipe type: from class names and unlabelled images to an adapted classifier.

    class names, domain -> prompts -> synthetic images -> stage 1 (UDA) -> pseudo-labels -> stage 2 (target
    alone) -> classifier

With ``source`` real labelled images take the place of the synthetic ones (the protocol of published UDA
figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from diffadapt.core.config import added
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.pipeline import Pipeline, Role
from diffadapt.core.ranges import Between, Seed
from diffadapt.data.class_names import read_class_names
from diffadapt.data.config import DataConfig
from diffadapt.diffusion.generators.config import FilterConfig, TextToImageConfig
from diffadapt.methods.ssl.config import SplitConfig, SslConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig, SelectConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.prompts.config import PromptConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.images import Images, cached_source
from diffadapt.systems.adapt_anything.checks import check_labels, check_training
from diffadapt.systems.adapt_anything.graph import (
    CLIP_TAUGHT_NOTE,
    SOURCE_ONLY,
    AdaptationGraph,
    Domain,
    Trained,
)
from diffadapt.systems.adapt_anything.roles import DIRECT, OTHERWISE, UNFILTERED
from diffadapt.systems.checks import check_known, check_once
from diffadapt.tasks.classification.adaptation_figures import AdaptationFigures
from diffadapt.tasks.classification.merge_head import MergeHead
from diffadapt.tasks.classification.validate import Validate

CONTROLS = ("direct", "unfiltered", "clip")
VALIDATORS = ("entropy", "im", "bnm", "corrc", "snd", "ensv")


@dataclass(frozen=True)
class AdaptAnything:
    """Everything that a run of Adapt Anything depends on."""

    classes: str = ""
    """A text file with one class name a line; needed unless the source or target has class folders."""
    target: DataConfig = DataConfig(block=128)
    """The unlabelled images. Labels that it has, as class folders or ``target.labels``, serve for scores
    alone."""
    unlisted: Literal["refuse", "keep"] = added("refuse")
    """Target images whose folder or label names a class that is not listed; keep: they are part of the
    target, and the report says how well they are told from the others."""
    domain: str = ""
    """What the target shows, for the prompts: "webcam photos of office objects"."""
    source: DataConfig = DataConfig(block=128)
    """Labelled real images to adapt from instead of synthetic ones; empty: synthesise."""
    prompts: PromptConfig = PromptConfig()
    generator: TextToImageConfig = TextToImageConfig()
    filters: FilterConfig = FilterConfig()
    backbone: BackboneConfig = BackboneConfig()
    uda: UdaConfig = UdaConfig()
    held_out: Annotated[float, Between(0, 0.5)] = added(0.0)
    """The part of every class's source images that stage 1 does not train on, so that shares of classes,
    guesses of the accuracy and the limit of a reject class can be taken from them; 0: none."""
    split: SplitConfig = SplitConfig()
    ssl: SslConfig = SslConfig()
    select: SelectConfig = SelectConfig()
    clip: ClipConfig = ClipConfig()
    controls: tuple[str, ...] = CONTROLS
    """direct: stage 2 straight from the source-only model; unfiltered: stage 1 without the filters' choice,
    where they chose; clip: stage 2 from CLIP's pseudo-labels and no source, where CLIP zero-shot is a row."""
    diversity: bool = added(True)
    """CLIP's features of the synthetic images, and of some of the real ones, for their diversity in the
    report; those of a frozen backbone serve without it."""
    seeds: tuple[Seed, ...] = (0,)
    """Training is repeated with each; the images are the same."""
    figures: bool = True
    seed: Seed = 0
    """Of prompts and synthetic images."""
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "target": ("target.path",),
        "source": ("source.path",),
        "generator": ("generator.weights",),
        "backbone": ("backbone.name",),
        "method": ("uda.method",),
        "images-per-class": ("generator.images_per_class",),
    }
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        recipe = self.resolved
        recipe._check()
        graph = _Build(recipe)
        graph.build()
        return graph.pipeline(self.class_names)

    @property
    def resolved(self) -> AdaptAnything:
        """The recipe with the input that its backbone wants."""
        return replace(self, backbone=with_inputs(self.backbone))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order: of the list, else of the source's or the target's folders."""
        if self.classes:
            return read_class_names(self.classes)
        names = cached_source(self.source if self.source.path else self.target).class_names
        if not names:
            raise DataError(
                "The classes are not known: give --classes, a text file with one class name a line."
            )
        return names

    @property
    def synthetic(self) -> bool:
        return not self.source.path

    def _check(self) -> None:
        if not self.target.path:
            raise RecipeError(
                "The recipe has no target images: give --target, a folder of unlabelled images."
            )
        check_known("controls", self.controls, CONTROLS)
        check_methods(self.uda, self.ssl)
        check_once("controls", self.controls)
        second = self.ssl if self.ssl.method != "none" else None
        check_training(self.execution, self.backbone, self.uda, second, self.seeds)
        if len(self.class_names) < 2:
            raise RecipeError(
                f"There is one class only ({self.class_names[0]!r}): a classifier needs at least two."
            )
        alone = self.synthetic and self.generator.images_per_class < 2
        if alone and self.held_out and self.split.shares == "estimated" and second:
            raise RecipeError(
                "split.shares is 'estimated' by images that held_out keeps out of training, but one a"
                " class leaves none: raise generator.images_per_class, or set held_out to 0."
            )


def check_methods(uda: Any, ssl: Any) -> None:
    """RecipeError for a method that does not exist."""
    _ = uda.chosen
    if ssl.method != "none":
        _ = ssl.chosen


class _Build(AdaptationGraph):
    """The graph of one recipe."""

    def __init__(self, recipe: AdaptAnything):
        super().__init__(recipe, recipe.class_names)
        self.base = "Synthetic only" if recipe.synthetic else "Source only"

    def build(self) -> None:
        r: AdaptAnything = self.r
        classes = r.classes or r.target.classes
        targets = Images(
            replace(r.target, classes=classes),
            (("target/0", ""),),
            subset=True,
            names=self.class_names,
            others=r.unlisted == "keep",
        )
        sources = None if r.synthetic else Images(replace(r.source, classes=r.classes or r.source.classes))
        check_labels(r.select, targets.source(""), sources and sources.source(""))
        target = self.add("target", targets, output="target")
        source, kept = self.synthetic(r.domain) if sources is None else (self.add("source", sources), "")
        if kept:
            self.outputs["filter"] = kept
        domains = self.domain("source", source), self.domain("target", target)
        if sources is None:
            self.features_for_diversity(target)
        self.zero_shot("zero_shot", target, r.domain)
        first, *_ = [self._ladder(*domains, kept, seed) for seed in r.seeds]
        self.outputs["predictions"] = first[-1].scored
        self.outputs["model"] = first[-1].model
        if r.backbone.frozen:
            self.add("adapted", MergeHead(r.backbone, self.class_names), first[-1].model, output="model")
        scored = {t.scored for t in first}
        validate = Validate(VALIDATORS, len(self.class_names))
        self.add("validators", validate, *(n for n in self.nodes if n in scored), output="validators")
        if r.figures:
            self._figures(source, target, domains, first)

    def _ladder(self, source: Domain, target: Domain, kept: str, seed: int) -> list[Trained]:
        """The models of one seed in order: source only, UDA, stage 2; the last one is the result."""
        r = self.r
        tag = f"s{seed}" if len(r.seeds) > 1 else ""
        models = [self.stage1(SOURCE_ONLY, source, target, kept, tag=tag, seed=seed)]
        self.row(models[0], seed=seed)
        if r.uda.method != SOURCE_ONLY:
            models.append(self.stage1(r.uda.method, source, target, kept, tag=tag, seed=seed))
            self.row(models[-1], seed=seed, note=self.frozen_note)
        if r.ssl.method != "none":
            models.append(self.stage2(r.ssl.method, models[-1], target, tag=tag, seed=seed))
            self.row(models[-1], seed=seed)
            if "direct" in r.controls and r.uda.method != SOURCE_ONLY:
                direct = self.stage2(r.ssl.method, models[0], target, tag=tag, seed=seed)
                direct = replace(direct, role=Role(DIRECT, models[-1].title, OTHERWISE[DIRECT]))
                self.row(direct, seed=seed, note="stage 2 straight from stage 1's baseline")
            if "clip" in r.controls and r.clip.weights:
                beside = models[-2]
                asked = ("zero_shot", r.domain)
                taught = self.clip_taught(r.ssl.method, beside, target, asked, tag=tag, seed=seed)
                self.row(taught, seed=seed, note=CLIP_TAUGHT_NOTE)
        if "unfiltered" in r.controls and kept and r.filters.chooses:
            for method in dict.fromkeys((SOURCE_ONLY, r.uda.method)):
                whole = self.stage1(method, source, target, "", tag=f"unfiltered{tag}", seed=seed)
                role = Role(UNFILTERED, whole.title, OTHERWISE[UNFILTERED])
                whole = replace(whole, title=f"{whole.title}, unfiltered", role=role)
                self.row(whole, seed=seed, note="trained on all synthetic images")
        return models

    def _figures(
        self, source: str, target: str, domains: tuple[Domain, Domain], ladder: list[Trained]
    ) -> None:
        stage = AdaptationFigures(
            self.class_names,
            self.r.backbone,
            target=target,
            source=source,
            prompts="prompts" if self.r.synthetic else "",
            predictions=tuple((t.title, t.scored) for t in ladder),
            before=ladder[0].model,
            after=ladder[-1].model,
            features=tuple(d.rows for d in domains) if self.r.backbone.frozen else (),
        )
        inputs = [
            source,
            target,
            *([d.rows for d in domains] if self.r.backbone.frozen else []),
            *(["prompts"] if self.r.synthetic else []),
        ]
        inputs += [t.scored for t in ladder] + [ladder[0].model, ladder[-1].model]
        self.add("figures", stage, *dict.fromkeys(inputs), output="figures")

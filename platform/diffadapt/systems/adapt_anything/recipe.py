"""Adapt Anything as a recipe type: from class names and unlabelled images to an adapted classifier.

    class names, domain -> prompts -> synthetic images -> stage 1 (UDA) -> pseudo-labels -> stage 2 (target
    alone) -> classifier

With ``source`` real labelled images take the place of the synthetic ones (the protocol of published UDA
figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.ranges import Natural
from diffadapt.data.class_names import read_class_names
from diffadapt.data.config import DataConfig
from diffadapt.diffusion.generators.config import FilterConfig, TextToImageConfig
from diffadapt.methods.ssl.config import SplitConfig, SslConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig, SelectConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.images import Images, cached_source
from diffadapt.systems.adapt_anything.checks import check_labels, check_once, check_training
from diffadapt.systems.adapt_anything.graph import SOURCE_ONLY, AdaptationGraph, Domain, Trained
from diffadapt.tasks.classification.adaptation_figures import AdaptationFigures
from diffadapt.tasks.classification.merge_head import MergeHead
from diffadapt.tasks.classification.validate import Validate
from diffadapt.tasks.classification.zero_shot import ZeroShot

CONTROLS = ("direct", "unfiltered")
VALIDATORS = ("entropy", "im", "bnm", "corrc", "snd", "ensv")


@dataclass(frozen=True)
class AdaptAnything:
    """Everything that a run of Adapt Anything depends on."""

    classes: str = ""
    """A text file with one class name a line; needed unless the source or target has class folders."""
    target: DataConfig = DataConfig(block=128)
    """The unlabelled images. Labels that it has, as class folders or ``target.labels``, serve for scores
    alone."""
    domain: str = ""
    """What the target shows, for the prompts: "webcam photos of office objects"."""
    source: DataConfig = DataConfig(block=128)
    """Labelled real images to adapt from instead of synthetic ones; empty: synthesise."""
    prompts: PromptConfig = PromptConfig()
    generator: TextToImageConfig = TextToImageConfig()
    filters: FilterConfig = FilterConfig()
    backbone: BackboneConfig = BackboneConfig()
    uda: UdaConfig = UdaConfig()
    split: SplitConfig = SplitConfig()
    ssl: SslConfig = SslConfig()
    select: SelectConfig = SelectConfig()
    clip: ClipConfig = ClipConfig()
    controls: tuple[str, ...] = CONTROLS
    """direct: stage 2 straight from the source-only model; unfiltered: stage 1 without the filters' choice,
    where they chose."""
    seeds: tuple[Natural, ...] = (0,)
    """Training is repeated with each; the images are the same."""
    figures: bool = True
    seed: Natural = 0
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
        self._check()
        graph = _Build(self)
        graph.build()
        return Pipeline(tuple(graph.nodes), tuple(graph.rows), self.class_names, graph.outputs)

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
        for name in self.controls:
            if name not in CONTROLS:
                raise RecipeError(
                    f"controls has no {name!r}.{suggest(name, CONTROLS)} Known are: {', '.join(CONTROLS)}."
                )
        check_methods(self.uda, self.ssl)
        check_once("controls", self.controls)
        check_training(
            self.execution,
            self.backbone,
            self.uda,
            self.ssl if self.ssl.method != "none" else None,
            self.seeds,
        )
        if len(self.class_names) < 2:
            raise RecipeError(
                f"There is one class only ({self.class_names[0]!r}): a classifier needs at least two."
            )


def check_methods(uda: Any, ssl: Any) -> None:
    """RecipeError for a method that does not exist."""
    _ = uda.chosen
    if ssl.method != "none":
        _ = ssl.chosen


class _Build(AdaptationGraph):
    """The graph of one recipe."""

    def __init__(self, recipe: AdaptAnything):
        r = self.r = recipe
        super().__init__(r.backbone, r.uda, r.ssl, r.split, r.select, r.class_names, r.seed)

    def build(self) -> None:
        r = self.r
        targets = Images(
            replace(r.target, classes=r.classes or r.target.classes), (("target/0", ""),), subset=True
        )
        sources = None if r.synthetic else Images(replace(r.source, classes=r.classes or r.source.classes))
        check_labels(r.select, targets.source(""), sources and sources.source(""))
        self.outputs["target"] = target = self.add("target", targets)
        source, kept = self._synthetic() if sources is None else (self.add("source", sources), "")
        domains = self.domain("source", source), self.domain("target", target)
        if r.clip.weights:
            zero_shot = self.add("zero_shot", ZeroShot(r.clip, self.class_names, r.domain), target)
            self.row("CLIP zero-shot", zero_shot, note=f"no training; {r.clip.weights}", chosen=False)
        ladders = [self._ladder(*domains, kept, seed) for seed in r.seeds]
        first, *_ = ladders
        self.outputs["predictions"] = first[-1].scored
        final = first[-1].model
        if r.backbone.frozen:
            final = self.add("adapted", MergeHead(r.backbone, self.class_names), final)
        self.outputs["model"] = final
        candidates = [n.name for n in self.nodes if n.name in {t.scored for t in first}]
        self.outputs["validators"] = self.add(
            "validators", Validate(VALIDATORS, len(self.class_names)), *candidates
        )
        if r.figures:
            self._figures(source, target, domains, first)

    def _synthetic(self) -> tuple[str, str]:
        r = self.r
        images, kept = self.synthetic(r.prompts, r.generator, r.filters, r.domain)
        if kept:
            self.outputs["filter"] = kept
        return images, kept

    def _ladder(self, source: Domain, target: Domain, kept: str, seed: int) -> list[Trained]:
        """The models of one seed in order: source only, UDA, stage 2; the last one is the result."""
        r = self.r
        tag = f"s{seed}" if len(r.seeds) > 1 else ""
        base = self.stage1(SOURCE_ONLY, source, target, kept, tag=tag, seed=seed)
        base = replace(base, title="Synthetic only" if r.synthetic else "Source only")
        self.row(base.title, base.scored, seed=seed)
        models = [base]
        if r.uda.method != SOURCE_ONLY:
            models.append(self.stage1(r.uda.method, source, target, kept, tag=tag, seed=seed))
            self.row(models[-1].title, models[-1].scored, seed=seed, note=self.frozen_note)
        if r.ssl.method != "none":
            models.append(self.stage2(r.ssl.method, models[-1], target, tag=tag, seed=seed))
            self.row(models[-1].title, models[-1].scored, seed=seed)
            if "direct" in r.controls and r.uda.method != SOURCE_ONLY:
                direct = self.stage2(r.ssl.method, base, target, tag=tag, seed=seed)
                self.row(
                    direct.title,
                    direct.scored,
                    seed=seed,
                    note="stage 2 straight from stage 1's baseline",
                    control=True,
                )
        if "unfiltered" in r.controls and kept and r.filters.chooses:
            self._unfiltered(source, target, seed, tag)
        return models

    def _unfiltered(self, source: Domain, target: Domain, seed: int, tag: str) -> None:
        for method in dict.fromkeys((SOURCE_ONLY, self.r.uda.method)):
            whole = self.stage1(method, source, target, "", tag=f"unfiltered{tag}", seed=seed)
            title = "Synthetic only" if method == SOURCE_ONLY else whole.title
            self.row(
                f"{title}, unfiltered",
                whole.scored,
                seed=seed,
                note="trained on all synthetic images",
                control=True,
            )

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
        self.outputs["figures"] = self.add("figures", stage, *dict.fromkeys(inputs))

"""Benchmarks of unsupervised domain adaptation as a recipe type: methods x transfers x seeds, in one table.

Two protocols: a real source domain (to compare with published figures), or synthetic images for the target's
classes (Adapt Anything). Stage 2 may follow one of the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar

from diffadapt.core.config import added
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.ranges import Between, Seed
from diffadapt.data.benchmarks import benchmark
from diffadapt.data.config import DataConfig
from diffadapt.diffusion.generators.config import FilterConfig, TextToImageConfig
from diffadapt.methods.ssl.config import METHODS as SSL_METHODS
from diffadapt.methods.ssl.config import SplitConfig, SslConfig
from diffadapt.methods.uda.config import METHODS as UDA_METHODS
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig, SelectConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.prompts.config import PromptConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.images import Images
from diffadapt.systems.adapt_anything.checks import check_training
from diffadapt.systems.adapt_anything.graph import (
    CLIP_TAUGHT_NOTE,
    SOURCE_ONLY,
    AdaptationGraph,
    Domain,
    Trained,
)
from diffadapt.systems.checks import check_known, check_once

SYNTHETIC, CONTROLS = "synthetic", ("clip",)


@dataclass(frozen=True)
class Benchmark:
    """Everything that a benchmark's table depends on."""

    benchmark: str = "office31"
    data: DataConfig = DataConfig(block=128)
    """``path`` is the benchmark's root."""
    transfers: tuple[str, ...] = ()
    """Such as amazon-webcam; a source 'synthetic' makes images from text. Empty: every pair of real domains.
    """
    methods: tuple[str, ...] = (SOURCE_ONLY, "dann", "cdan", "mcd", "symnets", "mcc")
    ssl_methods: tuple[str, ...] = ()
    """Stage 2 after ``ssl_after``."""
    ssl_after: str = "cdan"
    controls: tuple[str, ...] = added(CONTROLS)
    """clip: stage 2 also from CLIP's pseudo-labels and no source, where CLIP zero-shot is a row."""
    diversity: bool = added(True)
    """CLIP's features of the synthetic images, and of some of the real ones, for their diversity in the
    report; those of a frozen backbone serve without it."""
    partial: bool = False
    """Accept other image counts than the published ones."""
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
    clip: ClipConfig = ClipConfig(weights="")
    seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("data.path",),
        "backbone": ("backbone.name",),
        "generator": ("generator.weights",),
    }

    @cached_property
    def known(self):
        """What is published of the benchmark: domains, classes, counts, pairs, metric."""
        return benchmark(self.benchmark)

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        recipe = self.resolved
        recipe._check()
        graph = _Build(recipe)
        graph.build()
        return graph.pipeline(graph.class_names)

    @property
    def resolved(self) -> Benchmark:
        """The recipe with the input that its backbone wants."""
        return replace(self, backbone=with_inputs(self.backbone))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order. Raises DataError."""
        return self.images(self.pairs()[0][1]).class_names

    def images(self, place: str) -> Images:
        """The images of a domain, or of its part that is held apart for scores."""
        return Images(self.data, ((f"{place}/0", place),), self.benchmark, self.partial)

    def pairs(self) -> list[tuple[str, str]]:
        """(source, target) of every transfer."""
        domains = self.known.domains
        named = [_parted(t, domains) for t in self.transfers] or [list(p) for p in self.known.pairs()]
        for t in named:
            for i, domain in enumerate(t if len(t) == 2 else ["?"]):
                if domain not in self.known.domains and not (i == 0 and domain == SYNTHETIC):
                    raise RecipeError(
                        f"{'-'.join(t)!r} is no transfer of {self.benchmark or self.known.title}: give"
                        f" source-target of {', '.join(self.known.domains)}, or"
                        f" {SYNTHETIC}-target.{suggest(domain, self.known.domains)}"
                    )
            if t[0] == t[1]:
                raise RecipeError(
                    f"The transfer {'-'.join(t)!r} has its target as its source: name two domains."
                )
        return [(s, t) for s, t in named]

    def _check(self) -> None:
        if not self.data.path:
            raise RecipeError(f"The recipe has no data: give --data, the root folder of {self.benchmark}.")
        check_known("methods", self.methods, UDA_METHODS)
        check_known("ssl_methods", self.ssl_methods, SSL_METHODS)
        if self.ssl_methods and self.ssl_after not in self.methods:
            raise RecipeError(
                f"ssl_after is {self.ssl_after!r}, which is not among the methods: add it, or name one of"
                f" {', '.join(self.methods)}."
            )
        if not self.methods:
            raise RecipeError(f"methods is empty: name at least one of {', '.join(UDA_METHODS)}.")
        check_known("controls", self.controls, CONTROLS)
        for name in ("methods", "ssl_methods", "transfers", "controls"):
            check_once(name, getattr(self, name))
        second = self.ssl if self.ssl_methods else None
        check_training(self.execution, self.backbone, self.uda, second, self.seeds)


class _Build(AdaptationGraph):
    def __init__(self, recipe: Benchmark):
        super().__init__(recipe, ())
        self.metric = recipe.known.metric
        self.domains: dict[str, Domain] = {}
        self.made: dict[str, tuple[Domain, str]] = {}

    def build(self) -> None:
        r = self.r
        pairs = r.pairs()
        for _, target in pairs:
            self._real(target)
        self.class_names = r.class_names
        for source, target in pairs:
            self._transfer(source, target)
        self.outputs["target"] = self.domains[pairs[0][1]].images
        for domain in self.domains.values() if self.made else ():
            self.features_for_diversity(domain.images)

    def _transfer(self, source: str, target: str) -> None:
        r, group = self.r, f"{source}-{target}"
        domain, kept = self._synthetic(target) if source == SYNTHETIC else (self._real(source), "")
        images = f"test.{target}" if f"test.{target}" in self.nodes else f"images.{target}"
        self.zero_shot(f"zero_shot.{target}", images, r.known.describe(target), group)
        for seed in r.seeds:
            tag = f"{group}.s{seed}"
            for method in r.methods:
                trained = self.stage1(method, domain, self._real(target), kept, tag=tag, seed=seed)
                self._row(trained, group, seed)
                for ssl in r.ssl_methods if method == r.ssl_after else ():
                    self._row(self.stage2(ssl, trained, self._real(target), tag=tag, seed=seed), group, seed)
                    if "clip" in r.controls and r.clip.weights:
                        self._clip_taught(ssl, trained, target, group, seed)

    def _clip_taught(self, method: str, beside: Trained, target: str, group: str, seed: int) -> None:
        """Stage 2 from CLIP's pseudo-labels; transfers to one target share it."""
        images = self._real(target)
        node = "zero_shot_on_target" if images.test else "zero_shot"
        asked = f"{node}.{target}", self.r.known.describe(target)
        trained = self.clip_taught(method, beside, images, asked, tag=f"{target}.s{seed}", seed=seed)
        self.row(trained, note=CLIP_TAUGHT_NOTE, group=group, seed=seed)

    def _row(self, trained: Trained, group: str, seed: int) -> None:
        note = self.frozen_note if trained.model.startswith(SOURCE_ONLY) else ""
        self.row(trained, note=note, group=group, seed=seed)

    def _real(self, name: str) -> Domain:
        if name not in self.domains:
            r = self.r
            domain = self.domain(name, self.add(f"images.{name}", r.images(name)))
            if held_out := r.known.test_split(name):
                rows = self.domain(held_out, self.add(f"test.{name}", r.images(held_out))).rows
                domain = replace(domain, test=rows)
            self.domains[name] = domain
        return self.domains[name]

    def _synthetic(self, target: str) -> tuple[Domain, str]:
        if target not in self.made:
            images, kept = self.synthetic(self.r.known.describe(target), target)
            domain = self.domain(f"{SYNTHETIC}.{target}", images)
            if any(source != SYNTHETIC for source, _ in self.r.pairs()):
                domain = replace(domain, note=" (synthetic source)")
            self.made[target] = domain, kept
        return self.made[target]


def _parted(transfer: str, domains: Sequence[str]) -> list[str]:
    """Source and target of a transfer; names of domains may have hyphens too."""
    parts = transfer.split("-")
    ways = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    both = [list(w) for w in ways if w[1] in domains and (w[0] in domains or w[0] == SYNTHETIC)]
    return both[0] if both else transfer.split("-", 1)


def transfer_recipes(build: Callable[[], Benchmark], module: str) -> dict[str, Callable[[], Benchmark]]:
    """A recipe function for every transfer of ``build``'s benchmark, real and synthetic source, for a file
    under pipelines/."""
    known = build().known
    pairs = [*known.pairs(), *((SYNTHETIC, t) for t in dict.fromkeys(t for _, t in known.pairs()))]

    def both() -> Benchmark:
        return replace(build(), transfers=tuple("-".join(pair) for pair in pairs))

    both.__doc__ = (
        f"{known.title}: every real source and synthetic images as the source of every target, the methods of"
        " `all`, in one table."
    )
    both.__module__ = module
    functions: dict[str, Callable[[], Benchmark]] = {"both": both}
    for source, target in pairs:

        def one(pair: str = f"{source}-{target}") -> Benchmark:
            return replace(build(), transfers=(pair,))

        one.__name__ = f"{source}_{target}".replace("-", "_").lower()
        one.__doc__ = (
            f"{known.title}: {'synthetic images' if source == SYNTHETIC else source} -> {target}, the methods"
            " of `all`."
        )
        one.__module__ = module
        functions[one.__name__] = one
    return functions

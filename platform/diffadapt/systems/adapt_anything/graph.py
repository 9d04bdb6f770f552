"""What every recipe of unsupervised adaptation has in common: stage 1, pseudo-labels, stage 2, predictions
and score rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from diffadapt.core.pipeline import SOURCE, Builder, MethodRow, Role
from diffadapt.methods.ssl.config import METHODS as SSL_METHODS
from diffadapt.methods.uda.config import METHODS as UDA_METHODS
from diffadapt.methods.uda.config import settled
from diffadapt.metrics.classification import TOP1
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.stages.filter_images import FilterImages
from diffadapt.stages.prompts import Prompts
from diffadapt.stages.text_to_image import TextToImage
from diffadapt.systems.adapt_anything.roles import (
    CLIP_TAUGHT,
    DIRECT,
    OTHERWISE,
    STAGE1,
    STAGE2,
    UNFILTERED,
    ZERO_SHOT,
)
from diffadapt.tasks.classification.clip_features import ClipFeatures
from diffadapt.tasks.classification.features import Features
from diffadapt.tasks.classification.fit_ssl import FitSsl
from diffadapt.tasks.classification.fit_uda import FitUda
from diffadapt.tasks.classification.hold_out import HoldOut
from diffadapt.tasks.classification.predict import Predict
from diffadapt.tasks.classification.predict_head import PredictHead
from diffadapt.tasks.classification.split import Split
from diffadapt.tasks.classification.zero_shot import ZeroShot

SOURCE_ONLY, CLIP_ZERO_SHOT = "source_only", "CLIP zero-shot"
CLIP_TAUGHT_NOTE = "no source: stage 2 from CLIP's pseudo-labels"
REAL_SHARDS = 16
"""Of a real set so many shards have CLIP features, evenly spread: enough to compare the diversity with."""


@dataclass(frozen=True)
class Domain:
    """A set of images in the graph: ``images`` is its node; ``rows`` what training reads, the images or their
    features; ``test`` the rows that scores count, where a benchmark holds them apart; ``note`` stands behind
    the titles of what was trained on it."""

    images: str
    rows: str
    test: str = ""
    note: str = ""


@dataclass(frozen=True)
class HeldOut:
    """Source images that a model was not trained on: the node of their ``rows`` and the one that chose
    them."""

    rows: str
    chosen: str


@dataclass(frozen=True)
class Trained:
    """A trained model in the graph and the predictions that scores count."""

    model: str
    scored: str
    title: str
    role: Role = Role()
    held_out: HeldOut | None = None


class AdaptationGraph(Builder):
    """Collects nodes and rows. Node names are ``<what>.<tags>``; what stands before the first dot groups them
    in tables. ``recipe``: AdaptAnything or Benchmark."""

    system = "adapt_anything"
    base = "Source only"
    """The row of the model that was trained on the source alone."""
    metric = TOP1.name

    def __init__(self, recipe: Any, class_names: tuple[str, ...]):
        super().__init__()
        self.r, self.class_names = recipe, class_names
        self.backbone: BackboneConfig = recipe.backbone

    def row(self, trained: Trained, *, note: str = "", group: str = "", seed: int | None = None) -> None:
        """A score row over the predictions of a model."""
        role = trained.role
        self.rows.append(
            MethodRow(
                trained.title,
                (trained.scored,),
                note,
                control=role.kind in (DIRECT, UNFILTERED, CLIP_TAUGHT),
                group=group,
                seed=seed,
                selection="last" if role.kind == ZERO_SHOT else self.r.select.rule,
                metric=self.metric,
                role=role,
            )
        )

    def zero_shot(self, name: str, images: str, description: str, group: str = "") -> None:
        """The baseline that needs no training, where the recipe has a CLIP model."""
        if self.r.clip.weights:
            node = self._asked(name, images, description)
            baseline = Trained("", node, CLIP_ZERO_SHOT, Role(ZERO_SHOT))
            self.row(baseline, note=f"no training; {self.r.clip.weights}", group=group)

    def _asked(self, name: str, images: str, description: str) -> str:
        """CLIP's zero-shot predictions."""
        return self.add(name, ZeroShot(self.r.clip, self.class_names, description), images)

    def features_for_diversity(self, images: str) -> None:
        """CLIP's features of an images node, where the report has no cached ones to measure its diversity
        by."""
        r, synthetic = self.r, isinstance(self.nodes[images].stage, TextToImage)
        if r.diversity and r.clip.weights and not self.backbone.frozen:
            stage = ClipFeatures(r.clip, 0 if synthetic else REAL_SHARDS)
            self.add(f"clip_features.{images}", stage, images)

    def domain(self, name: str, images: str) -> Domain:
        """The training rows of an images node: cached features where the backbone is frozen."""
        if not self.backbone.frozen:
            return Domain(images, images)
        features = Features(self.backbone, self.r.uda.augment, self.r.uda.flip, self.r.seed)
        return Domain(images, self.add(f"features.{name}", features, images))

    def synthetic(self, description: str, tag: str = "") -> tuple[str, str]:
        """(node of synthetic images, node of the filter's decisions or '') for a target that is described in
        words."""
        r, names = self.r, self.class_names
        prompts = Prompts(r.prompts, names, description, r.generator.classes_per_shard, r.seed)
        written = self.add(_name("prompts", tag), prompts)
        images = self.add(_name("synth", tag), TextToImage(r.generator, len(names), r.seed), written)
        self.outputs.setdefault("prompts", written)
        self.outputs.setdefault("synth", images)
        self.features_for_diversity(images)
        if not r.filters.active:
            return images, ""
        chosen = FilterImages(r.filters, names, self.backbone.in_channels)
        return images, self.add(_name("filter", tag), chosen, images)

    @property
    def frozen_note(self) -> str:
        """What a row of a frozen backbone has to say."""
        return "trained on cached features of a frozen backbone" if self.backbone.frozen else ""

    def stage1(
        self, method: str, source: Domain, target: Domain, kept: str = "", *, tag: str = "", seed: int = 0
    ) -> Trained:
        """Stage 1 with ``method`` from ``source`` to ``target``, and its predictions."""
        config, base = settled(replace(self.r.uda, method=method, seed=seed)), self.base + source.note
        if method == SOURCE_ONLY:
            config = replace(config, sdat=0.0)
        stage = FitUda(config, self.backbone, len(self.class_names), self.class_names, self.r.select)
        held_out = self._held_out(source, kept)
        kept = held_out.chosen if held_out else kept
        name = self.add(_name(method, tag), stage, source.rows, target.rows, *([kept] if kept else []))
        known = title_of(UDA_METHODS[method], method)
        title, published = (f"{known} + SDAT", "") if config.sdat else (known, known)
        role = Role(STAGE1, base, OTHERWISE[STAGE1], "" if source.note else published)
        if method == SOURCE_ONLY:
            title, role = self.base, Role(SOURCE, published="" if source.note else self.base)
        return self._trained(name, target, title + source.note, role, held_out)

    def _held_out(self, source: Domain, kept: str) -> HeldOut | None:
        """The source images that stage 1 goes without, where the recipe holds some out."""
        if not self.r.held_out:
            return None
        stage = HoldOut(self.r.held_out, self.class_names, self.r.seed)
        name = f"held_out.{source.images}" + (".filtered" if kept else "")
        return HeldOut(source.rows, self.add(name, stage, source.images, *([kept] if kept else [])))

    def _trained(
        self, model: str, target: Domain, title: str, role: Role, held_out: HeldOut | None = None
    ) -> Trained:
        where, rows = ("test", target.test) if target.test else ("target", target.rows)
        if held_out:
            self._predict(model, "held_out", held_out.rows, held_out.chosen)
        return Trained(model, self._predict(model, where, rows), title, role, held_out)

    def _predict(self, model: str, where: str, rows: str, *chosen: str) -> str:
        """Logits of a model of stage 1 or 2; ``chosen``: of the images that this node holds out alone."""
        stage = (
            PredictHead(len(self.class_names))
            if self.backbone.frozen
            else Predict(plain(self.backbone), len(self.class_names), True)
        )
        head, dot, tag = model.partition(".")
        return self.add(f"{head}_on_{where}{dot}{tag}", stage, rows, model, *chosen)

    def stage2(self, method: str, start: Trained, target: Domain, *, tag: str = "", seed: int = 0) -> Trained:
        """Pseudo-labels from ``start``'s predictions, then ``method`` on the target alone, from ``start``'s
        weights."""
        head, dot, tags = start.model.partition(".")
        predicted = self._predict(start.model, "target", target.rows)
        held, config = start.held_out, self.r.split
        unadapted = config.shares == "estimated" and not held and start.role.kind == SOURCE
        config = replace(config, shares="predicted") if unadapted else config
        stage = Split(config, len(self.class_names), self.class_names, unadapted=unadapted)
        by: list[str] = []
        if config.shares == "estimated":  # by the held-out source, else by what stage 1 was trained on
            by = [self._predict(start.model, "held_out", held.rows, held.chosen) if held else start.model]
        split = self.add(f"split_{head}{dot}{tags}", stage, predicted, *by)
        config, classes = replace(self.r.ssl, method=method, seed=seed), len(self.class_names)
        fit = FitSsl(config, self.backbone, classes, self.class_names, self.r.select)
        name = self.add(_name(f"{head}_{method}", tag), fit, self._second_views(target), split, start.model)
        title = f"{start.title} + {title_of(SSL_METHODS[method], method)}"
        role = Role(STAGE2, start.title, OTHERWISE[STAGE2])
        return self._trained(name, target, title, role, start.held_out)

    def clip_taught(
        self,
        method: str,
        beside: Trained,
        target: Domain,
        asked: tuple[str, str],
        *,
        tag: str = "",
        seed: int = 0,
    ) -> Trained:
        """Stage 2 with ``method`` from CLIP's pseudo-labels, of a network like ``beside``'s (a model of
        stage 1) that has seen no source: the control of stage 2 after ``beside``. ``asked``: the node of
        CLIP's predictions on the target, and the target in words."""
        predicted = self._asked(asked[0], target.images, asked[1])
        rule = replace(self.r.split, shares="predicted")
        unadapted = rule != self.r.split
        stage = Split(rule, len(self.class_names), self.class_names, CLIP_ZERO_SHOT, unadapted)
        split = self.add(f"split_{asked[0]}", stage, predicted)
        config, classes = replace(self.r.ssl, method=method, seed=seed), len(self.class_names)
        first_stage = self.nodes[beside.model].stage
        assert isinstance(first_stage, FitUda)
        width = first_stage.config.chosen.bottleneck
        fit = FitSsl(config, self.backbone, classes, self.class_names, self.r.select, width)
        name = self.add(_name(f"{ZERO_SHOT}_{method}", tag), fit, self._second_views(target), split)
        second = title_of(SSL_METHODS[method], method)
        role = Role(CLIP_TAUGHT, f"{beside.title} + {second}", OTHERWISE[CLIP_TAUGHT])
        return self._trained(name, target, f"{CLIP_ZERO_SHOT} + {second}", role)

    def _second_views(self, target: Domain) -> str:
        """What stage 2 trains on: the images, or features of its own views where the backbone is frozen."""
        if not self.backbone.frozen:
            return target.rows
        ssl, first = self.r.ssl, self.nodes[target.rows].stage
        views = Features(self.backbone, ssl.augment, ssl.flip, self.r.seed, ssl.scale)
        if views.identity() == first.identity():
            return target.rows
        return self.add(f"ssl_{target.rows}", views, target.images)


def title_of(cls: type, name: str) -> str:
    """A method's name in tables."""
    return getattr(cls, "title", "") or name.upper()


def plain(config: BackboneConfig) -> ClassifierConfig:
    """The classifier's settings of a backbone: what prediction needs and nothing that only training does."""
    return ClassifierConfig(**{f.name: getattr(config, f.name) for f in fields(ClassifierConfig)})


def _name(stem: str, tag: str) -> str:
    return f"{stem}.{tag}" if tag else stem

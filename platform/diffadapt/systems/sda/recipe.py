"""Synthetic-Domain Alignment as a recipe type: one value holds all settings, :meth:`SDA.pipeline` joins the
stages.

source images --(train)--> classifier, generator, unconditional model        (each optional: weights may be
given) generator -> synth -> aligned -> fine-tuned classifier
target -> projected;  prediction = softmax f_source(target) + softmax f_finetuned(projected)   (equation 5)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar

from diffadapt.core.config import added, to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.pipeline import PART, RESULT, SAME_IMAGES, SOURCE, MethodRow, Pipeline, Role
from diffadapt.core.ranges import Between, Seed
from diffadapt.data.config import DataConfig, TargetConfig
from diffadapt.diffusion.aligners.base import ALIGNERS
from diffadapt.diffusion.aligners.config import AlignConfig, LevelConfig, diffpure
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.align import Align
from diffadapt.stages.choose_level import ChooseLevel
from diffadapt.stages.corrupt import WATERMARK, Corrupt
from diffadapt.stages.fit_generator import FitGenerator
from diffadapt.stages.images import Images, cached_source
from diffadapt.stages.synthesize import Synthesize
from diffadapt.systems.checks import check_known, check_once
from diffadapt.systems.sda import authors
from diffadapt.systems.sda.published import match
from diffadapt.systems.sda.student import AligningGraph
from diffadapt.tasks.classification.adapt_online import Memo, Tent
from diffadapt.tasks.classification.figures import Figures
from diffadapt.tasks.classification.fit_classifier import FitClassifier
from diffadapt.tasks.classification.predict import Predict
from diffadapt.train.config import RESNET_PAPER, DiffusionFitConfig, DistilConfig, FitConfig

METHODS = ("source", "diffpure", "memo", "tent", "gda", "dda", "sda")
CONTROLS = ("nonaligned", "real", "projection", "finetuned", "batchnorm")


@dataclass(frozen=True)
class SDA:
    """Everything that a run of SDA depends on."""

    classifier: ClassifierConfig = ClassifierConfig()
    target: TargetConfig = TargetConfig()
    source: DataConfig = DataConfig()
    """Labelled source images: needed for what is trained here and for the real-image control; else leave the
    path empty."""
    num_classes: Annotated[int, Between(0, wanted="not be negative (0: as many as the data have)")] = 0
    """0: as many as the source or target data have."""
    synth: SynthConfig = SynthConfig()
    align: AlignConfig = AlignConfig()
    """Alignment of synthetic images and projection of target images: one routine, one setting."""
    cheap: tuple[str, ...] = added(())
    """Beside the method sda: rows of it whose images are aligned and projected in a few network calls, by
    aligners of these names (x0 one-step few-step ...), their settings under align.<name>; each fine-tunes a
    classifier of its own."""
    level: LevelConfig = added(LevelConfig())
    """How the level of noise of such an aligner is chosen without labels, where it is 'auto'."""
    project_storage: str = "png"
    """png, or jpeg75 as the authors store projections."""
    finetune: FitConfig = RESNET_PAPER
    diffpure: AlignConfig = field(default_factory=diffpure)
    """DiffPure's settings; its weights, precision and batch size are those of ``align``."""
    memo: MemoConfig = MemoConfig()
    tent: TentConfig = TentConfig()
    tent_grid: bool = False
    """All eight settings of the paper's Table 8: batch 1 and 64, classes and types mixed or not."""
    methods: tuple[str, ...] = ("source", "diffpure", "memo", "tent", "dda", "sda")
    controls: tuple[str, ...] = ("nonaligned", "real", "projection", "finetuned")
    figures: bool = True
    classifier_fit: FitConfig = FitConfig()
    """How the source classifier is trained when classifier.name is 'train'."""
    generator_fit: DiffusionFitConfig = DiffusionFitConfig(architecture="dit")
    """How the conditional model is trained when synth.weights is 'train'."""
    unconditional_fit: DiffusionFitConfig = DiffusionFitConfig(architecture="unet")
    """How the unconditional model is trained when align.weights is 'train'."""
    distil: DistilConfig = added(DistilConfig())
    """How the student is trained, where an aligner is 'distilled'."""
    seed: Seed = 0
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("source.path", "target.data.path"),
        "model": ("classifier.name",),
        "image-size": ("source.image_size", "target.data.image_size", "target.resize", "target.size"),
        "target": ("target.data.path",),
        "seed": (
            "seed",
            "classifier_fit.seed",
            "finetune.seed",
            "generator_fit.seed",
            "unconditional_fit.seed",
        ),
    }
    """Short options of the command line and the fields that they set."""

    def pipeline(self) -> Pipeline:
        """The graph of stages. Raises RecipeError or DataError for settings that do not fit together."""
        self._check()
        graph = _Graph(replace(self.resolved, target=replace(self.target, data=self.target_data)))
        graph.build()
        return graph.pipeline(self.class_names)

    @property
    def resolved(self) -> SDA:
        """The recipe with the input that its classifier wants."""
        return replace(self, classifier=with_inputs(self.classifier))

    @property
    def remarks(self) -> tuple[str, ...]:
        """For `show`: what differs from the authors' own run; empty for other targets than the paper's."""
        config = to_dict(self.resolved)
        known = match("", config)
        if not known:
            return ()
        return (f"What differs from the authors' own run ({authors.repository()}):",) + tuple(
            f"- {sentence}" for sentence in authors.remarks(config, known[1])
        )

    @property
    def target_data(self) -> DataConfig:
        """The target's images. Where they are another set than the source's, slices that divide one set
        between the two do not count: the target is the whole of its set."""
        source, target = self.source, self.target.data
        if not source.path or (_place(source), source.split) == (_place(target), target.split):
            return target
        (low, end), (start, high) = sorted((source.part, target.part))
        whole = (0.0, 1.0)
        return replace(target, part=whole) if (low, high) == whole and end == start else target

    @cached_property
    def _listing(self):
        data = self.source if self.source.path else self.target_data
        if self.target.kind.startswith("imagenet-") and not self.source.path:
            return None
        return cached_source(data)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order, where the data at hand name them."""
        return self._listing.class_names if self._listing else ()

    def classes(self) -> int:
        """The number of classes."""
        if self.num_classes:
            return self.num_classes
        if self.target.kind.startswith("imagenet-"):
            return 1000
        names = self.class_names
        if not names:
            raise DataError(
                "The data have no class folders or labels: give --num-classes, or a labelled --source.path."
            )
        if len(names) == 1:
            path = (self.source if self.source.path else self.target_data).path
            raise DataError(
                f"{path} has the class {names[0]!r} alone, and a classifier needs two: give what has the"
                f" folders of the classes at its top ({names[0]!r} may be a folder around them)."
            )
        return len(names)

    def _check(self) -> None:
        check_known("methods", self.methods, METHODS)
        check_known("controls", self.controls, CONTROLS)
        check_known("cheap", self.cheap, ALIGNERS.names())
        check_once("cheap", self.cheap)
        if not self.target.data.path:
            raise RecipeError(
                "The recipe has no target images: give --target.data.path (or --data for a folder of"
                " classes)."
            )
        trains = [
            n
            for n, v in (
                ("classifier.name", self.classifier.name),
                ("synth.weights", self.synth.weights),
                ("align.weights", self.align.weights),
            )
            if v == "train"
        ]
        if trains and not self.source.path:
            raise RecipeError(
                f"{trains[0]} is 'train' but there are no labelled source images: give --source.path."
            )
        if self.classifier.name == "train" and not self.classifier.arch:
            raise RecipeError(
                "classifier.name is 'train' but classifier.arch does not say which network: give a timm name,"
                " e.g. --classifier.arch resnet50."
            )

    def cheap_align(self, name: str) -> AlignConfig:
        """The alignment of the row of ``cheap`` called ``name``."""
        return replace(self.align, guidance=name)


def cheap_row(config: AlignConfig) -> str:
    """'SDA (one step, 1 call)': the row of an aligner of a few calls."""
    cost, name = config.cost, config.guidance.replace("-", " ")
    if cost is None:
        return f"SDA ({name})"
    return f"SDA ({name}, {cost.passes} call{'s' if cost.passes != 1 else ''})"


class _Graph(AligningGraph):
    """Builds the nodes of one recipe."""

    system = "sda"

    def __init__(self, recipe: SDA):
        super().__init__()
        self.r = recipe
        self.classes = recipe.classes()
        self.names_of_classes = recipe.class_names

    def build(self) -> None:
        r = self.r
        self._target()
        self.has_source = bool(r.source.path)
        if self.has_source:
            self.add("source_images", Images(r.source))
        self._classifier()
        needs_projection = bool({"dda", "sda"} & set(r.methods) or r.controls)
        if needs_projection or "diffpure" in r.methods or "gda" in r.methods:
            self._unconditional()
        self.predict("source_on_target", "target")
        if "clean" in self.nodes:
            self.predict("source_on_clean", "clean")
        if "source" in r.methods:
            for member in ("source_on_target", "source_on_clean"):
                if member in self.nodes:
                    self.row("Source", member, role=Role(SOURCE, published="Source"))
        if "diffpure" in r.methods:
            config = replace(r.diffpure, weights=r.align.weights, precision=r.align.precision)
            self._project("diffpure", config)
            self.predict("source_on_diffpure", "diffpure")
            self.row("DiffPure", "source_on_diffpure", note="no ensemble", role=_known("DiffPure"))
        self._online()
        if "gda" in r.methods:
            self._project("gda", replace(r.align, guidance="gda", scale=_scale_per_image(r.align)))
            self.predict("source_on_gda", "gda")
            note = "as publicly described; its hyper-parameters are not published"
            self.row("GDA", "source_on_target", "source_on_gda", note=note, role=_known("GDA"))
        if needs_projection:
            self._project("projected", r.align, *self._main())
            self.predict("source_on_projected", "projected")
        if "dda" in r.methods:
            role = _known("DDA", partner="Source")
            self.row("DDA", "source_on_target", "source_on_projected", role=role)
        if "sda" in r.methods:
            for name in r.cheap:
                self._cheap(name)
            self._sda()
        if "projection" in r.controls:
            alone = "projection alone, without fine-tuning and ensemble, does as well here"
            self.control("Projection only", "source_on_projected", "source model, no ensemble", alone, PART)
        if r.figures and needs_projection:
            self._figures()

    def row(self, name: str, *members: str, note: str = "", role: Role) -> None:
        self.rows.append(MethodRow(name, members, note, role=role))

    def control(
        self, name: str, members: str | tuple[str, ...], note: str, otherwise: str, kind: str = "control"
    ) -> None:
        """A control of the run's result; ``otherwise``: what it means when the result is not above it."""
        members = (members,) if isinstance(members, str) else members
        self.rows.append(MethodRow(name, members, note, control=True, role=Role(kind, otherwise=otherwise)))

    def _target(self) -> None:
        t = self.r.target
        if t.kind == "imagenet-c":
            groups = tuple((f"{c}/{s}", f"{c}/{s}") for c in t.corruptions for s in t.severities)
            self.add("target", Images(t.data, groups, "imagenet-c", t.partial))
        elif t.kind == "imagenet-w":
            self.add("target", Images(t.data, ((f"{WATERMARK}/5", ""),), "imagenet-w", t.partial))
        elif t.kind == "folder":
            self.add("target", self._labelled(t.data, "target/0"))
        else:
            self.add("clean", self._labelled(t.data, "clean/0"))
            names, severities = (
                ((WATERMARK,), (5,)) if t.kind == "watermark" else (t.corruptions, t.severities)
            )
            stage = Corrupt(
                names,
                severities,
                t.data.channels,
                t.resize,
                t.size,
                t.jpeg_quality,
                t.frost_textures,
                self.r.seed,
            )
            self.add("target", stage, "clean")
        self.outputs["target"] = "target"

    def _labelled(self, data: DataConfig, group: str) -> Images:
        """Images whose labels are bound to the source's classes, some of which may be absent; without a
        source they have an order of their own."""
        names = self.names_of_classes if self.r.source.path else ()
        return Images(data, ((group, ""),), subset=bool(names), names=names)

    def _classifier(self) -> None:
        r = self.r
        self.fitted = ()
        if r.classifier.name == "train":
            size, names = r.source.image_size, self.names_of_classes
            fit = FitClassifier(r.classifier_fit, r.classifier, self.classes, "scratch", 0, size, names)
            self.fitted = (self.add("classifier", fit, "source_images", output="classifier"),)

    def _unconditional(self) -> None:
        r = self.r
        self.uncond = ()
        if r.align.weights == "train":
            fit = FitGenerator(r.unconditional_fit, 0, r.source.image_size, r.source.channels)
            self.uncond = (self.add("unconditional", fit, "source_images", output="unconditional"),)

    def _project(self, name: str, config: AlignConfig, *further: str) -> None:
        config = replace(config, storage=self.r.project_storage)  # type: ignore[arg-type]
        self._align(name, config, "target", *further)

    def _align(self, name: str, config: AlignConfig, images: str, *further: str) -> None:
        """``images`` aligned; ``further``: nodes that the aligner reads beside the networks."""
        if config.aligner.needs_classifier:
            stage = Align(config, self.r.seed, self.r.classifier, self.classes)
            self.add(name, stage, images, *self.networks(config), *self.fitted, *further)
        else:
            self.align(name, config, images, *further)

    def _cheap(self, name: str) -> None:
        """One aligner for synthetic and target images, and the classifier that is fine-tuned on the former.
        The row stands above SDA's, which stays the run's result."""
        r, config, key = self.r, self.r.cheap_align(name), name.replace("-", "_")
        further = (self._level(f"level_{key}", config),) if config.chooses else ()
        self._project(f"projected_{key}", config, *further)
        self._align(f"aligned_{key}", config, self.synth(), *further)
        predicted = self._finetune(f"finetuned_{key}", f"aligned_{key}", projected=f"projected_{key}")
        partner = "SDA" if "sda" in r.methods else "Source"
        note = "level chosen without labels" if config.chooses else ""
        role = Role("method", partner=partner)
        self.row(cheap_row(config), "source_on_target", predicted, note=note, role=role)

    def _main(self) -> tuple[str, ...]:
        """The choice of the level of ``align`` itself, where it is 'auto'."""
        return (self._level("level", self.r.align),) if self.r.align.chooses else ()

    def _level(self, name: str, config: AlignConfig) -> str:
        r = self.r
        stage = ChooseLevel(config, r.level, r.classifier, self.classes, r.seed)
        return self.add(name, stage, "target", *self.uncond, *self.fitted)

    def predict(self, name: str, images: str, model: tuple[str, ...] | None = None) -> None:
        fitted = self.fitted if model is None else model
        self.add(name, Predict(self.r.classifier, self.classes, bool(fitted)), images, *fitted)

    def _online(self) -> None:
        r = self.r
        if "memo" in r.methods:
            memo = Memo(r.memo, r.classifier, self.classes, bool(self.fitted), r.seed)
            self.add("memo", memo, "target", *self.fitted)
            self.row("MEMO", "memo", role=_known("MEMO"))
            if r.memo.limit is not None:
                name, note = "Source on MEMO's images", "to compare MEMO with"
                otherwise = "this run does not show that the method does more than this control"
                role = Role(SAME_IMAGES, "MEMO", otherwise)
                self.rows.append(MethodRow(name, ("source_on_target",), note, True, "memo", role=role))
        if "tent" not in r.methods:
            return
        settings = [r.tent]
        if r.tent_grid:
            settings = [
                replace(r.tent, batch_size=b, mixed_classes=c, mixed_types=t)
                for c in (False, True)
                for t in (False, True)
                for b in (1, 64)
            ]
        titles = []
        for c in settings:
            stage, alone = self._tent(c), len(settings) == 1
            node = self.add("tent" if alone else f"tent_{stage.label()}", stage, "target", *self.fitted)
            note = (
                f"batch {c.batch_size}, classes {'mixed' if c.mixed_classes else 'in order'}, types"
                f" {'mixed' if c.mixed_types else 'apart'}"
            )
            titles.append("Tent" if alone else f"Tent ({note})")
            self.row(titles[-1], node, note=note if alone else "", role=_known("Tent"))
        if "batchnorm" in r.controls:
            node = self.add("batchnorm", self._tent(replace(r.tent, lr=0.0)), "target", *self.fitted)
            otherwise = "this run does not show that the gradient step adds to the batch statistics"
            role, note = Role("control", titles[0], otherwise), "Tent without its gradient step"
            self.rows.append(MethodRow("Batch statistics only", (node,), note, True, role=role))

    def _tent(self, config: TentConfig) -> Tent:
        return Tent(config, self.r.classifier, self.classes, bool(self.fitted), self.r.seed)

    def synth(self) -> str:
        r, generator = self.r, ()
        if r.synth.weights == "train":
            size, channels = r.source.image_size, r.source.channels
            fit = FitGenerator(r.generator_fit, self.classes, size, channels, self.names_of_classes)
            generator = (self.add("generator", fit, "source_images", output="generator"),)
        return self.add("synth", Synthesize(r.synth, self.classes, r.seed), *generator, output="synth")

    def _sda(self) -> None:
        r = self.r
        self.outputs["aligned"] = self.align("aligned", r.align, self.synth(), *self._main())
        self.outputs.update(projected="projected", source_on_target="source_on_target")
        self._finetune("finetuned", "aligned")
        self.outputs["finetuned"] = "finetuned"
        role = Role(RESULT, partner="DDA", published="SDA")
        self.row("SDA", "source_on_target", "finetuned_on_projected", role=role)
        shown = "this run does not show that"
        if "finetuned" in r.controls:
            otherwise = f"{shown} the ensemble with the source model helps"
            self.control(
                "Fine-tuned model on projected images", "finetuned_on_projected", "no ensemble", otherwise
            )
        if "nonaligned" in r.controls:
            self._finetune("nonaligned", "synth")
            self.control(
                "SDA without alignment",
                ("source_on_target", "nonaligned_on_projected"),
                "fine-tuned on non-aligned synthetic images",
                f"{shown} alignment helps",
            )
        if "real" in r.controls and self.has_source:
            self._finetune("real", "source_images", epoch_images=r.synth.images_per_class * self.classes)
            self.control(
                "Real-image fine-tuning",
                ("source_on_target", "real_on_projected"),
                "as many steps, on real source images",
                f"{shown} synthetic images do more than as much training on real ones",
            )

    def _finetune(self, name: str, images: str, epoch_images: int = 0, projected: str = "projected") -> str:
        """A classifier fine-tuned on ``images``; returns the node of its predictions on ``projected``."""
        r = self.r
        init = "fitted" if self.fitted else "config"
        size = r.source.image_size if self.has_source else 256
        names = self.names_of_classes
        fit = FitClassifier(r.finetune, r.classifier, self.classes, init, epoch_images, size, names)
        self.add(name, fit, images, *self.fitted)
        self.predict(f"{name}_on_projected", projected, (name,))
        return f"{name}_on_projected"

    def _figures(self) -> None:
        models = [n for n in ("classifier", "finetuned") if n in self.nodes]
        pictures = [n for n in ("clean", "target", "projected", "synth", "aligned") if n in self.nodes]
        names = self.names_of_classes
        stage = Figures(self.r.classifier, self.classes, tuple(pictures), tuple(models), names)
        self.add("figures", stage, *pictures, *models, output="figures")


def _place(data: DataConfig) -> str:
    """Where a set lies, alike for all spellings of a local path."""
    return (
        data.path if "://" in data.path or data.path.startswith("embedded:") else os.path.realpath(data.path)
    )


def _scale_per_image(align: AlignConfig) -> float:
    """What an image feels of the guidance: of one norm over a batch its share."""
    return align.scale / align.coupled_batch**0.5 if align.aligner.coupled else align.scale


def _known(method: str, partner: str = "") -> Role:
    """The role of a method that the paper reports too."""
    return Role("method", partner, published=method)

"""What every recipe of unsupervised adaptation has in common: stage 1, pseudo-labels, stage 2, predictions
and score rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from diffadapt.core.pipeline import MethodRow, Node
from diffadapt.diffusion.generators.config import FilterConfig, TextToImageConfig
from diffadapt.methods.ssl.config import METHODS as SSL_METHODS
from diffadapt.methods.ssl.config import SplitConfig, SslTraining
from diffadapt.methods.uda.config import METHODS as UDA_METHODS
from diffadapt.methods.uda.config import UdaTraining
from diffadapt.models.config import BackboneConfig, ClassifierConfig, SelectConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.stages.filter_images import FilterImages
from diffadapt.stages.prompts import Prompts
from diffadapt.stages.text_to_image import TextToImage
from diffadapt.tasks.classification.features import Features
from diffadapt.tasks.classification.fit_ssl import FitSsl
from diffadapt.tasks.classification.fit_uda import FitUda
from diffadapt.tasks.classification.predict import Predict
from diffadapt.tasks.classification.predict_head import PredictHead
from diffadapt.tasks.classification.split import Split

SOURCE_ONLY = "source_only"


@dataclass(frozen=True)
class Domain:
    """A set of images in the graph: ``images`` is its node; ``rows`` what training reads, the images or their
    features; ``test`` the rows that scores count, where a benchmark holds them apart."""

    images: str
    rows: str
    test: str = ""


@dataclass(frozen=True)
class Trained:
    """A trained model in the graph and the predictions that scores count."""

    model: str
    scored: str
    title: str


class AdaptationGraph:
    """Collects nodes and rows. Node names are ``<what>.<tags>``; what stands before the first dot groups them
    in tables."""

    def __init__(
        self,
        backbone: BackboneConfig,
        uda: UdaTraining,
        ssl: SslTraining,
        split: SplitConfig,
        select: SelectConfig,
        class_names: tuple[str, ...],
        seed: int,
    ):
        self.backbone, self.uda, self.ssl, self.split_config, self.select = backbone, uda, ssl, split, select
        self.class_names, self.seed = class_names, seed
        self.nodes: list[Node] = []
        self.rows: list[MethodRow] = []
        self.outputs: dict[str, str] = {}

    @property
    def names(self) -> set[str]:
        return {n.name for n in self.nodes}

    def add(self, name: str, stage, *inputs: str) -> str:
        """A node; returns its name."""
        self.nodes.append(Node(name, stage, inputs))
        return name

    def row(
        self,
        name: str,
        trained: str,
        *,
        note: str = "",
        control: bool = False,
        group: str = "",
        seed: int | None = None,
        chosen: bool = True,
        metric: str = "top1",
    ) -> None:
        """A score row over one prediction node."""
        selection = self.select.rule if chosen else "last"
        self.rows.append(
            MethodRow(
                name, (trained,), note, control, group=group, seed=seed, selection=selection, metric=metric
            )
        )

    def domain(self, name: str, images: str) -> Domain:
        """The training rows of an images node: cached features where the backbone is frozen."""
        if not self.backbone.frozen:
            return Domain(images, images)
        return Domain(
            images,
            self.add(
                f"features.{name}",
                Features(self.backbone, self.uda.augment, self.uda.flip, self.seed),
                images,
            ),
        )

    def synthetic(
        self,
        prompts: PromptConfig,
        generator: TextToImageConfig,
        filters: FilterConfig,
        description: str,
        tag: str = "",
    ) -> tuple[str, str]:
        """(node of synthetic images, node of the filter's decisions or '') for a target that is described in
        words."""
        written = self.add(
            _name("prompts", tag),
            Prompts(prompts, self.class_names, description, generator.classes_per_shard, self.seed),
        )
        images = self.add(
            _name("synth", tag), TextToImage(generator, len(self.class_names), self.seed), written
        )
        self.outputs.setdefault("prompts", written)
        self.outputs.setdefault("synth", images)
        if not filters.active:
            return images, ""
        return images, self.add(
            _name("filter", tag), FilterImages(filters, self.class_names, self.backbone.in_channels), images
        )

    @property
    def frozen_note(self) -> str:
        """What a row of a frozen backbone has to say."""
        return "trained on cached features of a frozen backbone" if self.backbone.frozen else ""

    def stage1(
        self, method: str, source: Domain, target: Domain, kept: str = "", *, tag: str = "", seed: int = 0
    ) -> Trained:
        """Stage 1 with ``method`` from ``source`` to ``target``, and its predictions."""
        config = replace(self.uda, method=method, seed=seed)
        if method == SOURCE_ONLY:
            config = replace(config, sdat=0.0)
        stage = FitUda(config, self.backbone, len(self.class_names), self.class_names, self.select)
        name = self.add(_name(method, tag), stage, source.rows, target.rows, *([kept] if kept else []))
        title = title_of(UDA_METHODS[method], method) + (" + SDAT" if config.sdat else "")
        return self._trained(name, target, title)

    def _trained(self, model: str, target: Domain, title: str) -> Trained:
        where, rows = ("test", target.test) if target.test else ("target", target.rows)
        return Trained(model, self._predict(model, where, rows), title)

    def _predict(self, model: str, where: str, rows: str) -> str:
        """Logits of a model of stage 1 or 2."""
        stage = (
            PredictHead(len(self.class_names))
            if self.backbone.frozen
            else Predict(plain(self.backbone), len(self.class_names), True)
        )
        head, dot, tag = model.partition(".")
        name = f"{head}_on_{where}{dot}{tag}"
        return name if name in self.names else self.add(name, stage, rows, model)

    def stage2(
        self, method: str, start: Trained, target: Domain, *, tag: str = "", seed: int = 0, stem: str = ""
    ) -> Trained:
        """Pseudo-labels from ``start``'s predictions, then ``method`` on the target alone, from ``start``'s
        weights."""
        head, dot, tags = start.model.partition(".")
        split = f"split_{head}{dot}{tags}"
        if split not in self.names:
            self.add(
                split,
                Split(self.split_config, len(self.class_names), self.class_names),
                self._predict(start.model, "target", target.rows),
            )
        stage = FitSsl(
            replace(self.ssl, method=method, seed=seed),
            self.backbone,
            len(self.class_names),
            self.class_names,
            self.select,
        )
        name = self.add(_name(stem or f"{head}_{method}", tag), stage, target.rows, split, start.model)
        return self._trained(name, target, f"{start.title} + {title_of(SSL_METHODS[method], method)}")


def title_of(cls: type, name: str) -> str:
    """A method's name in tables."""
    return getattr(cls, "title", "") or name.upper()


def plain(config: BackboneConfig) -> ClassifierConfig:
    """The classifier's settings of a backbone: what prediction needs and nothing that only training does."""
    return ClassifierConfig(**{f.name: getattr(config, f.name) for f in fields(ClassifierConfig)})


def _name(stem: str, tag: str) -> str:
    return f"{stem}.{tag}" if tag else stem

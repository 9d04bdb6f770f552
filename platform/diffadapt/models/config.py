"""Which classifier, and how an image becomes its input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from diffadapt.core.config import Precision, added, by_device, decided, execution
from diffadapt.core.ranges import AboveZero, Natural, Positive

Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]
CropMode = Literal["center", "squash", "border"]
if TYPE_CHECKING:  # what stages see: models/inputs.py has put the model's own in place of None
    _Side, _Crop, _Values, _Deviations, _Filter, _Mode = (
        int, int, tuple[float, ...], tuple[float, ...], Interpolation, CropMode
    )  # fmt: skip
else:
    _Side, _Crop, _Values, _Deviations, _Filter, _Mode = (
        Natural | None, Positive | None, tuple[float, ...] | None, tuple[AboveZero, ...] | None,
        Interpolation | None, CropMode | None,
    )  # fmt: skip


def own() -> Any:
    """A field whose value is the model's own unless one is given."""
    return field(default=None)


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier, and how an image becomes its input. What is None of the latter is the model's own: what
    timm, the folder or its image processor says of these weights (models/inputs.py)."""

    name: str = "resnet50.tv_in1k"
    """A timm model name (ours included: cifar_resnet8/20/56), a folder with config.json and
    model.safetensors, a hub id (hf-hub:...), a checkpoint file (.th/.pt/.pth/.safetensors, with ``arch``), or
    ``train``."""
    arch: str | None = None
    """Architecture of a bare checkpoint file, or of the model to train; recognised from the keys where
    possible."""
    num_classes: Positive | None = None
    in_channels: Literal[1, 3] = 3
    resize: _Side = own()
    """Edge before the centre crop (``crop_mode`` says which); 0: no resize."""
    crop: _Crop = own()
    """Side of the network's input."""
    eval_resize: Literal["reference", "native"] = "reference"
    """reference: resize 224-pixel benchmark images too, as the authors do; native: leave images that already
    fit ``crop``."""
    mean: _Values = own()
    std: _Deviations = own()
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    batch_size: Positive = execution(128)
    interpolation: _Filter = added(None, "bicubic")
    """Filter of the resize."""
    crop_mode: _Mode = added(None, "center")
    """The evaluation view, in timm's words: center: the short edge to ``resize``, and the centre of it;
    squash: both edges to ``resize``, out of proportion, and the centre; border: the long edge, and a border
    around."""


@dataclass(frozen=True)
class BackboneConfig(ClassifierConfig):
    """The network to adapt: a classifier's settings, and whether its body is trained.

    ``name`` 'train' starts from random weights of ``arch``; otherwise the head of the named weights is
    replaced.
    """

    crop_mode: CropMode = added("squash", "center")
    """The one evaluation view of a recipe, which scores, selection, pseudo-labels and features share: the
    squash of the published benchmarks (Transfer-Learning-Library), whatever the weights were evaluated with.
    """
    frozen: bool = False
    """Cache the backbone's features once and train only what lies behind it: minutes on a CPU, a weaker
    adaptation, and so named."""
    weak_views: Natural | None = decided(4)
    """Cached augmented views an image (frozen; unset: none). Without any, every step sees an image's own
    features: on Office-31 as good as six views or better, at a sixth of the time."""
    strong_views: Natural | None = decided(4)
    """Strongly augmented ones, for stage 2 (frozen; unset: none)."""

    def __post_init__(self) -> None:
        for name in ("weak_views", "strong_views"):
            if self.frozen and getattr(self, name) is None:
                object.__setattr__(self, name, 0)


@dataclass(frozen=True)
class ClipConfig:
    """CLIP zero-shot classification, the baseline that every table has."""

    weights: str = "openai/clip-vit-large-patch14"
    """A transformers CLIP folder or hub id; empty: no row, and the report says so. The default is the model
    whose text tower Stable Diffusion 1 has, so that the generator knows no more of words than the baseline.
    """
    templates: tuple[str, ...] = ()
    """Text features are averaged over them; ``{domain}`` is replaced too. Empty: the 80 of CLIP's authors
    (Radford et al. 2021, section 3.1.4)."""
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    batch_size: Positive = execution(64)


@dataclass(frozen=True)
class SelectConfig:
    """Which epoch's weights stage 1 and stage 2 keep."""

    rule: Literal["last", "ensv", "im", "mixval", "snd", "corrc", "bnm", "classami", "dev", "oracle"] = "last"
    """last: no choice is made. oracle chooses on target labels: an upper bound, stamped in every table and in
    the model card."""
    candidates: Positive = 10
    """Candidates are at most so many epochs, evenly spread, the last one among them."""
    watch: Literal["", "im", "entropy", "bnm", "corrc", "snd", "mano", "oracle"] = execution("")
    """Report this score of the target's predictions after every epoch (sweeps set it); it never changes what
    is trained."""

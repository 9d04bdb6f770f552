"""Which classifier, and how an image becomes its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution
from diffadapt.core.ranges import AboveZero, Natural, Positive


@dataclass(frozen=True)
class ClassifierConfig:
    name: str = "resnet50.tv_in1k"
    """A timm model name (ours included: cifar_resnet8/20/56), a folder with config.json and
    model.safetensors, a hub id (hf-hub:...), a checkpoint file (.th/.pt/.pth/.safetensors, with ``arch``), or
    ``train``."""
    arch: str | None = None
    """Architecture of a bare checkpoint file, or of the model to train; recognised from the keys where
    possible."""
    num_classes: Positive | None = None
    in_channels: Literal[1, 3] = 3
    resize: Natural = 256
    """Short edge before the centre crop, bicubic; 0: no resize."""
    crop: Positive = 224
    """Side of the network's input."""
    eval_resize: Literal["reference", "native"] = "reference"
    """reference: resize 224-pixel benchmark images too, as the authors do; native: leave images that already
    fit ``crop``."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[AboveZero, ...] = (0.229, 0.224, 0.225)
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    batch_size: Positive = execution(128)


@dataclass(frozen=True)
class BackboneConfig(ClassifierConfig):
    """The network to adapt: a classifier's settings, and whether its body is trained.

    ``name`` 'train' starts from random weights of ``arch``; otherwise the head of the named weights is
    replaced.
    """

    frozen: bool = False
    """Cache the backbone's features once and train only what lies behind it: minutes on a CPU, a weaker
    adaptation, and so named."""
    weak_views: Natural = 4
    """Cached augmented views an image (frozen)."""
    strong_views: Natural = 4


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
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
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

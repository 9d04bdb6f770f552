"""Which classifier, and how an image becomes its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.config import execution


@dataclass(frozen=True)
class ClassifierConfig:
    name: str = "resnet50.tv_in1k"
    """A timm model name (ours included: cifar_resnet8/20/56), a folder with config.json and model.safetensors, a hub id
    (hf-hub:...), a checkpoint file (.th/.pt/.pth/.safetensors, with ``arch``), or ``train``."""
    arch: str | None = None
    """Architecture of a bare checkpoint file, or of the model to train; recognised from the keys where possible."""
    num_classes: int | None = None
    in_channels: Literal[1, 3] = 3
    resize: int = 256
    """Short edge before the centre crop, bicubic; 0: no resize."""
    crop: int = 224
    """Side of the network's input."""
    eval_resize: Literal["reference", "native"] = "reference"
    """reference: resize 224-pixel benchmark images too, as the authors do; native: leave images that already fit ``crop``."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    batch_size: int = execution(128)

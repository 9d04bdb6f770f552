"""Which segmentation network, and how an image becomes its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.ranges import AboveZero, Between, Natural, Positive
from diffadapt.models.config import own

if TYPE_CHECKING:  # what a fit sees: models/normalisation.py has put the weights' own in place of None
    _Values = tuple[float, ...]
    _Deviations = tuple[float, ...]
else:
    _Values, _Deviations = tuple[float, ...] | None, tuple[AboveZero, ...] | None


@dataclass(frozen=True)
class SegmenterConfig:
    arch: Literal[
        "deeplabv3plus", "refinenet", "deeplabv3plus_2conv", "refinenet_2pool", "segformer", "linear"
    ] = "deeplabv3plus"
    """deeplabv3plus, refinenet: on a convolutional backbone, as ZoDi's authors build them;
    deeplabv3plus_2conv: with two convolutions in the decoder; refinenet_2pool: with two chained poolings and
    fewer residual units; segformer: a transformers SegFormer; linear: a 1x1 head on the patch features of a
    timm vision transformer (DINOv2)."""
    backbone: str = "resnet50"
    """resnet50 or resnet101 (torchvision's, as the authors), any timm model with feature maps
    (``timm:mobilenetv2_100``), a SegFormer folder or hub id (nvidia/mit-b2), a timm ViT
    (vit_base_patch14_dinov2.lvd142m)."""
    weights: str = "imagenet"
    """imagenet: the backbone's published weights (torchvision: ImageNet V2); none: random; or a file or
    folder of the backbone's weights."""
    frozen: bool = False
    """Train the head alone."""
    void_channel: bool = True
    """One output more than classes, as the authors: void is never trained, and a void prediction on a
    labelled pixel is a miss."""
    width: Natural = 0
    """Channels of the head (0: as published, 256; of a SegFormer what its size has): small ones train on a
    CPU."""
    dropout: Annotated[float, Between(0, 0.99)] | None = None
    """Before the last layers of the head (refinenet: on the two deepest maps too), in training; a linear head
    has none. None: 0.5 for deeplabv3plus and refinenet, as the authors, 0.1 for the others."""
    layers: Positive = 1
    """linear: how many of the last blocks' patch features are concatenated (DINOv2: 1 or 4)."""
    size: tuple[Positive, Positive] = (512, 1024)
    """(height, width) that images are brought to for training (before the crop) and for prediction."""
    mean: _Values = own()
    std: _Deviations = own()
    """Of the input, red green blue, in 0..1; None: what the weights were published with."""
    precision: Precision = by_device("tf32")
    """Of prediction, training has its own; auto: fp32, on CUDA tf32."""
    batch_size: Positive = execution(4)

    @property
    def dropped(self) -> float:
        """The dropout in use."""
        if self.dropout is not None:
            return self.dropout
        return 0.5 if self.arch in ("deeplabv3plus", "refinenet") else 0.1

    @property
    def pools_image(self) -> bool:
        """Whether the head normalises one mean an image over the batch, which takes two of them."""
        return self.arch in ("deeplabv3plus", "deeplabv3plus_2conv")

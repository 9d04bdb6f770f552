"""Which object detector, and how an image becomes its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.ranges import AboveZero, Fraction, Positive
from diffadapt.models.config import own

if TYPE_CHECKING:  # what a fit sees: models/normalisation.py has put the weights' own in place of None
    _Values = tuple[float, ...]
    _Deviations = tuple[float, ...]
else:
    _Values, _Deviations = tuple[float, ...] | None, tuple[AboveZero, ...] | None

PUBLISHED: Mapping[str, str] = {
    "fasterrcnn_resnet50_fpn_v2": "FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1",
    "ssdlite320_mobilenet_v3_large": "SSDLite320_MobileNet_V3_Large_Weights.COCO_V1",
    "retinanet_resnet50_fpn_v2": "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1",
    "fcos_resnet50_fpn": "FCOS_ResNet50_FPN_Weights.COCO_V1",
}
"""torchvision's whole detectors and the name of their weights that were trained on COCO; a name means one
file for good."""
HEADS = ("fasterrcnn", "retinanet", "fcos")
"""torchvision's detection heads on a backbone of one's own choice, behind a feature pyramid."""


@dataclass(frozen=True)
class DetectorConfig:
    arch: Literal[
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "ssdlite320_mobilenet_v3_large",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
        "fasterrcnn",
        "retinanet",
        "fcos",
        "transformers",
    ] = "fasterrcnn_resnet50_fpn_v2"
    """torchvision's detectors by their names; fasterrcnn, retinanet, fcos: its heads on ``backbone``;
    transformers: an object detector of that library (DETR, Deformable or RT-DETR, YOLOS)."""
    backbone: str = ""
    """fasterrcnn, retinanet, fcos: tiny (a small convolutional network for images of 64 to 256 pixels),
    resnet50, resnet101 or a timm model with feature maps (``timm:mobilenetv2_100``); transformers: a model
    folder or hub id (facebook/detr-resnet-50)."""
    weights: str = "coco"
    """coco: the whole detector's published weights (transformers: those of ``backbone``); imagenet: the
    backbone's; none: random; or a checkpoint file or a detector folder of the same arch. Layers whose shape
    depends on the classes start anew where theirs differ."""
    size: tuple[Positive, Positive] = (512, 1024)
    """(height, width) that images are brought to for training and prediction; boxes are given and counted in
    the stored image's pixels."""
    mean: _Values = own()
    std: _Deviations = own()
    """Of the input, red green blue, in 0..1; None: what the weights were published with."""
    score: Fraction = 0.05
    """Least score of a detection that is kept."""
    overlap: Fraction = 0.5
    """Intersection over union above which the less sure of two boxes of a class is dropped (not
    transformers)."""
    detections: Positive = 100
    """Most detections an image; average precision counts 100."""
    precision: Precision = by_device("tf32")
    """Of prediction, training has its own; auto: fp32, on CUDA tf32."""
    batch_size: Positive = execution(4)

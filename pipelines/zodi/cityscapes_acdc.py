"""Cityscapes to the four conditions of ACDC, with the networks and settings of the ZoDi paper (section 4)."""

from __future__ import annotations

from diffadapt.core.config import strict_precision
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.systems.zodi.recipe import Zodi
from diffadapt.tasks.segmentation.config import SegmentTraining


def recipe() -> Zodi:
    """Cityscapes -> ACDC night, DeepLabv3+ R50: --data cityscapes/ --target acdc/."""
    return _recipe("night")


def fog() -> Zodi:
    """Cityscapes -> ACDC fog, DeepLabv3+ R50."""
    return _recipe("fog")


def rain() -> Zodi:
    """Cityscapes -> ACDC rain, DeepLabv3+ R50."""
    return _recipe("rain")


def snow() -> Zodi:
    """Cityscapes -> ACDC snow, DeepLabv3+ R50."""
    return _recipe("snow")


def refinenet() -> Zodi:
    """Cityscapes -> ACDC night, RefineNet R50."""
    return _recipe("night", SegmenterConfig(arch="refinenet"))


def segformer() -> Zodi:
    """Cityscapes -> ACDC night, SegFormer-B2: a network of today beside the paper's."""
    return _recipe(
        "night",
        SegmenterConfig(arch="segformer", backbone="nvidia/mit-b2", void_channel=False),
        SegmentTraining(optimizer="adamw", lr=6e-5, head_lr=10, weight_decay=0.01),
    )


def dinov2() -> Zodi:
    """Cityscapes -> ACDC night, a linear head on a frozen DINOv2 ViT-B: a network of today beside the
    paper's."""
    network = SegmenterConfig(
        arch="linear", backbone="vit_base_patch14_dinov2.lvd142m", frozen=True, void_channel=False
    )
    return _recipe(
        "night", network, SegmentTraining(optimizer="adamw", lr=1e-3, weight_decay=1e-4, epochs=20)
    )


def _recipe(
    condition: str, segmenter: SegmenterConfig | None = None, training: SegmentTraining | None = None
) -> Zodi:
    return strict_precision(
        Zodi(
            source=SceneConfig(layout="cityscapes", split="train"),
            source_test=SceneConfig(layout="cityscapes", split="val"),
            target=SceneConfig(layout="acdc", split="val", condition=condition),
            transfer=TransferConfig(domain=condition),
            segmenter=segmenter or SegmenterConfig(),
            training=training or SegmentTraining(),
        )
    )

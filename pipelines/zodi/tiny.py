"""ZoDi on procedural street scenes, day to night, with the shipped generator: a few minutes on two CPU
cores."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.systems.zodi.recipe import Zodi
from diffadapt.tasks.segmentation.config import SegmentTraining


def recipe() -> Zodi:
    """ZoDi on procedural street scenes (64x64), day -> night: transfer, quality control, all rows, with the
    shipped generator."""

    def streets(split: str, condition: str, limit: int) -> SceneConfig:
        return SceneConfig(
            path="embedded:streets", layout="streets", split=split, condition=condition, limit=limit
        )

    return Zodi(
        source=streets("train", "day", 128),
        source_test=streets("val", "day", 64),
        target=streets("test", "night", 128),
        transfer=TransferConfig(
            weights="embedded:streets",
            controlnet="",
            domain="night",
            strength=0.8,
            guidance=3.0,
            palette="own",
            size=64,
            multiple=8,
            batch_size=16,
        ),
        quality=QualityConfig(consistency=0.38, retries=1),
        segmenter=SegmenterConfig(
            arch="deeplabv3plus_2conv",
            backbone="timm:cifar_resnet8",
            weights="none",
            width=32,
            void_channel=False,
            size=(64, 64),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            batch_size=32,
        ),
        training=SegmentTraining(
            epochs=12,
            batch_size=8,
            crop=(0, 0),
            optimizer="adamw",
            lr=3e-3,
            weight_decay=0.01,
            precision="fp32",
        ),
        variants=("img2img",),
        estimate=64,
    )

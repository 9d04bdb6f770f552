"""Object detection by ZoDi's transfer: boxes carry over, because the transfer keeps the layout."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.systems.zodi.detection import ZodiDetection
from diffadapt.tasks.detection.config import DetectionTraining


def recipe() -> ZodiDetection:
    """Detection of cars, pedestrians and signs on procedural streets, day -> night, without a night image:
    minutes on two CPU cores."""
    return ZodiDetection(
        source=_streets("train", "day"),
        target=_streets("test", "night"),
        source_test=_streets("test", "day"),
        transfer=TransferConfig(
            weights="embedded:streets",
            controlnet="",
            domain="night",
            strength=0.8,
            palette="own",
            size=64,
            multiple=8,
            guidance=3.0,
            images_per_shard=0,
            batch_size=32,
        ),
        # Images are enlarged twice, so that a pedestrian is wider than the finest map's step of 4 pixels.
        detector=DetectorConfig(arch="fcos", backbone="tiny", weights="none", size=(128, 128), batch_size=16),
        training=DetectionTraining(
            epochs=8, batch_size=8, optimizer="adamw", lr=4e-3, weight_decay=0.05, warmup_steps=50
        ),
    )


def coco() -> ZodiDetection:
    """Detection on your own images with COCO instances, Faster R-CNN: --source DIR [--source-test DIR]
    [--target DIR] --domain fog."""
    return ZodiDetection()


def _streets(split: str, condition: str) -> SceneConfig:
    return SceneConfig(path="embedded:streets", layout="streets", split=split, condition=condition)

"""Whole recipes of ZoDi in seconds, on procedural streets with a random generator: for tests of the
machinery, not of accuracy."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.zodi.detection import ZodiDetection
from diffadapt.systems.zodi.recipe import Zodi
from diffadapt.tasks.detection.config import DetectionTraining
from diffadapt.tasks.segmentation.config import SegmentTraining


def streets(split: str, condition: str = "day", limit: int = 6, block: int = 3) -> SceneConfig:
    """A few street scenes in blocks of three."""
    return SceneConfig(
        path="embedded:streets", layout="streets", split=split, condition=condition, limit=limit, block=block
    )


def tiny_zodi(generator: str, **changes) -> Zodi:
    """Six streets of 64x64, three of them for the estimate, three night scenes; two epochs of every method;
    no quality control.

    ``generator``: a folder of tests/diffusionkit.py::tiny_scene_pipeline, which makes noise of the scenes.
    """
    recipe = Zodi(
        source=streets("train"),
        source_test=streets("test", limit=4),
        target=streets("test", "night", limit=4),
        transfer=TransferConfig(
            weights=generator,
            controlnet="",
            size=64,
            multiple=16,
            steps=3,
            guidance=2.0,
            palette="own",
            images_per_shard=2,
            batch_size=2,
        ),
        segmenter=SegmenterConfig(
            arch="deeplabv3plus_2conv", backbone="timm:cifar_resnet8", weights="none", width=8, size=(64, 64)
        ),
        training=SegmentTraining(epochs=2, batch_size=2, crop=(32, 48), lr=0.02, checkpoint_every=2),
        estimate=3,
        execution=ExecutionConfig(runner="local", device="cpu", threads=1),
    )
    return replace(recipe, **changes)


def doubtful(recipe: Zodi, *, consistency: float = 0.3, edges: float = 0.085, retries: int = 2) -> Zodi:
    """``recipe`` with a source model that is asked for its opinion of every image, and thresholds that some
    attempts miss."""
    return replace(
        recipe,
        quality=QualityConfig(
            consistency=consistency, edges=edges, retries=retries, retry="strength", strength_step=0.2
        ),
    )


def tiny_detection(generator: str, **changes) -> ZodiDetection:
    """Six streets with boxes, four test scenes by day and by night, one epoch of a tiny detector by every
    method."""
    recipe = ZodiDetection(
        source=streets("train"),
        source_test=streets("test", limit=4),
        target=streets("test", "night", limit=4),
        transfer=TransferConfig(
            weights=generator,
            controlnet="",
            size=64,
            multiple=16,
            steps=2,
            guidance=1.0,
            palette="own",
            images_per_shard=2,
        ),
        detector=DetectorConfig(arch="fcos", backbone="tiny", weights="none", size=(64, 64)),
        training=DetectionTraining(epochs=1, batch_size=2, optimizer="adamw", checkpoint_every=2),
        execution=ExecutionConfig(runner="local", device="cpu", threads=1),
    )
    return replace(recipe, **changes)

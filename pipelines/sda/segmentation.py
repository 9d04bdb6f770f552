"""SDA for segmenters on procedural street scenes with corruptions, with the shipped layout-to-image
generator."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.recipes import load
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.systems.sda_scenes.recipe import SDASegmentation
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.train.config import DiffusionFitConfig


def recipe() -> SDASegmentation:
    """SDA for a segmenter of procedural street scenes (64x64): 5 corruptions, Source, DDA, SDA and
    controls."""
    tiny = load("zodi/tiny")
    small = SegmentTraining(batch_size=8, crop=(0, 0), optimizer="adamw", weight_decay=0.01)
    return SDASegmentation(
        source=SceneConfig("embedded:streets", layout="streets", split="train", condition="day"),
        target=SceneConfig("embedded:streets", layout="streets", split="test", condition="day", limit=64),
        corruptions=("gaussian_noise", "impulse_noise", "defocus_blur", "contrast", "jpeg_compression"),
        image_size=64,
        layout_to_image=replace(
            tiny.transfer, method="layout", domain="source", prompt="driving in the daytime", strength=1.0
        ),
        align=AlignConfig(weights="train", respacing=20, start=5, scale=4.0, factor=2, batch_size=32),
        unconditional_fit=DiffusionFitConfig(
            architecture="unet",
            steps=1500,
            batch_size=32,
            lr=2e-3,
            ema_decay=0.99,
            channels=(48, 80),
            layers_per_block=1,
            attention_levels=(1,),
            space_to_depth=4,
            flip=True,
            save_precision="fp16",
            sample_every=500,
            checkpoint_every=200,
        ),
        segmenter=tiny.segmenter,
        training=replace(small, epochs=12, lr=3e-3),
        finetune=replace(small, epochs=6, lr=1e-3),
        seeds=(0, 1, 2),
    )

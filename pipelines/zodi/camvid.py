"""CamVid, day to dusk, with a generator trained on the day images alone: real scenes on two CPU cores.

No dusk image takes part in any training: what dusk looks like comes from procedural relighting of the day
images by their label maps (data/scenes/relight.py), which a small Stable Diffusion with a ControlNet learns
under the words "driving at dusk". The backbone's folder ``mobilenetv2-q8`` is made by ``diffadapt weights
import-mobilenet-v2`` (README).
"""

from __future__ import annotations

from dataclasses import replace

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.systems.zodi.recipe import Zodi
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.worlds.streets.config import LayoutFitConfig

AUTOENCODER = replace(LayoutFitConfig().vae, steps=400, batch_size=8)
DAY, TEST, DUSK = ("0006R0", "0016E5"), ("Seq05VD",), ("0001TP",)
"""Sequences to train on, of the source's test images, and of the target."""


def recipe() -> Zodi:
    """CamVid (SegNet's folders), day -> dusk: all frames of 0006R0 and 0016E5 to train, Seq05VD by day and
    0001TP at dusk to score."""
    return _recipe(SceneConfig(layout="camvid", split="all"))


def subset() -> Zodi:
    """CamVid in Parquet (every third or fourth day frame), day -> dusk, the table of the README: --data DIR
    --target DIR."""
    return _recipe(SceneConfig(layout="parquet", classes="camvid"))


def _recipe(data: SceneConfig) -> Zodi:
    return Zodi(
        source=replace(data, sequences=DAY),
        source_test=replace(data, sequences=TEST),
        target=replace(data, sequences=DUSK),
        transfer=TransferConfig(
            weights="train",
            controlnet="",
            domain="dusk",
            prompt="driving at dusk",
            strength=0.5,
            guidance=2.0,
            palette="own",
            size=192,
            multiple=16,
            batch_size=4,
        ),
        layout=LayoutFitConfig(
            size=192, crop=(64, 96), variants=2, vae=AUTOENCODER, batch_size=8, steps=1200
        ),
        appearances=("dusk",),
        segmenter=SegmenterConfig(
            arch="deeplabv3plus_2conv",
            backbone="timm:mobilenetv2_100",
            weights="mobilenetv2-q8",
            width=64,
            size=(192, 256),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            batch_size=8,
        ),
        training=SegmentTraining(
            epochs=16, crop=(160, 208), optimizer="adamw", lr=1e-3, head_lr=3.0, weight_decay=1e-4
        ),
        variants=("relight",),
        estimate=57,
        seeds=(0, 1, 2),
    )

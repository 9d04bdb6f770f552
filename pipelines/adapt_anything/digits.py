"""Adapt Anything on real handwritten digits with the shipped text-to-image model: a minute or two on two CPU
cores."""

from __future__ import annotations

from diffadapt.data.config import DataConfig
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.methods.ssl.config import METHODS as SSL
from diffadapt.methods.ssl.config import SplitConfig, SslConfig
from diffadapt.methods.uda.config import METHODS as UDA
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.systems.adapt_anything.recipe import AdaptAnything


def recipe() -> AdaptAnything:
    """From class names to a classifier of real handwritten digits: synthetic only, + MCC, + FixMatch, 3
    seeds, with the shipped generator."""
    return AdaptAnything(
        target=DataConfig(path="embedded:digits", split="test", image_size=16, channels=1, block=300),
        domain="bold soft narrow handwritten digits",
        prompts=PromptConfig(source="bank", prompts_per_class=50),
        generator=TextToImageConfig(
            weights="embedded:glyphs",
            images_per_class=50,
            guidance=1.0,
            steps=10,
            precision="fp32",
            images_per_shard=25,
            classes_per_shard=10,
            batch_size=125,
        ),
        backbone=BackboneConfig(
            name="train",
            arch="cifar_resnet8",
            in_channels=1,
            resize=0,
            crop=16,
            mean=(0.5,),
            std=(0.5,),
            crop_mode="center",
            batch_size=300,
        ),
        # A network without trained weights learns at one rate throughout, and needs no bottleneck.
        uda=UdaConfig(
            method="mcc",
            lr=0.05,
            epochs=6,
            steps_per_epoch=50,
            batch_size=64,
            augment="shift",
            flip=False,
            **{
                name: UDA[name](backbone_lr=1.0, bottleneck=0)
                for name in ("source_only", "dann", "cdan", "symnets", "mcc")
            },
        ),
        split=SplitConfig(fraction=0.5),
        ssl=SslConfig(
            method="fixmatch",
            lr=0.03,
            epochs=6,
            steps_per_epoch=25,
            batch_size=32,
            augment="shift",
            flip=False,
            fixmatch=SSL["fixmatch"](backbone_lr=1.0, threshold=0.9, mu=2, ema=0.99),
            mixmatch=SSL["mixmatch"](backbone_lr=1.0, mu=2, ema=0.99),
        ),
        clip=ClipConfig(
            weights="embedded:glyphs-clip", templates=("a photo of the digit {category}",), batch_size=300
        ),
        seeds=(0, 1, 2),
    )

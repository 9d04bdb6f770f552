"""SDA on a user's own folder of classes and own classifier, with generators trained on a part of the
images."""

from __future__ import annotations

from diffadapt.data.config import CORRUPTIONS, DataConfig, TargetConfig
from diffadapt.diffusion.aligners.config import AlignConfig, diffpure
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.systems.sda.recipe import SDA
from diffadapt.train.config import DiffusionFitConfig, FitConfig


def recipe() -> SDA:
    """SDA on --data <folder of classes> with --model <timm name or checkpoint>: trains 32x32 generators on
    half of the images."""
    source = DataConfig(part=(0.0, 0.5), image_size=32)
    return SDA(
        source=source,
        target=TargetConfig(
            data=DataConfig(part=(0.5, 1.0), image_size=32, block=250),
            corruptions=CORRUPTIONS,
            resize=32,
            size=32,
            jpeg_quality=0,
        ),
        classifier=ClassifierConfig(resize=32, crop=32, batch_size=250),
        classifier_fit=FitConfig(
            epochs=30,
            batch_size=128,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            schedule="cosine",
            warmup_epochs=2,
            label_smoothing=0.1,
            augment="shift",
            flip=True,
        ),
        synth=SynthConfig(
            weights="train",
            images_per_class=200,
            steps=50,
            sampler="ddim",
            output="round",
            guide_channels="all",
            images_per_shard=10,
            classes_per_shard=64,
            batch_size=128,
        ),
        align=AlignConfig(weights="train", respacing=50, start=15, scale=2.0, factor=2, batch_size=128),
        diffpure=diffpure(respacing=50, start=15),
        finetune=FitConfig(
            epochs=5,
            batch_size=128,
            optimizer="adamw",
            lr=1e-4,
            weight_decay=0.0,
            decay_norm_and_bias=False,
            schedule="constant",
            augment="shift",
            flip=True,
        ),
        generator_fit=DiffusionFitConfig(
            architecture="dit",
            channels=(4, 32, 6),
            patch_size=2,
            steps=20_000,
            batch_size=128,
            lr=1e-3,
            ema_decay=0.999,
            flip=True,
            checkpoint_every=200,
        ),
        unconditional_fit=DiffusionFitConfig(
            architecture="unet",
            channels=(64, 128),
            layers_per_block=1,
            attention_levels=(1,),
            space_to_depth=2,
            steps=20_000,
            batch_size=128,
            lr=1e-3,
            ema_decay=0.999,
            flip=True,
            checkpoint_every=200,
        ),
        memo=MemoConfig(views=32, limit=20, lr=1e-3),
        tent=TentConfig(batch_size=64, lr=1e-3, optimizer="adam"),
        controls=("nonaligned", "real", "projection", "finetuned", "batchnorm"),
    )

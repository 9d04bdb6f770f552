"""SDA on real handwritten digits with shipped generators: every row and control, minutes on two CPU cores."""

from __future__ import annotations

from diffadapt.data.config import CORRUPTIONS, DataConfig, TargetConfig
from diffadapt.diffusion.aligners.config import AlignConfig, diffpure
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.systems.sda.recipe import SDA
from diffadapt.train.config import DistilConfig, FitConfig


def recipe() -> SDA:
    """SDA on real handwritten digits (16x16): 15 corruptions at severity 5, all baselines and controls."""
    digits = dict(path="embedded:digits", image_size=16, channels=1)
    return SDA(
        source=DataConfig(split="train", **digits),
        target=TargetConfig(
            data=DataConfig(split="test", block=300, **digits),
            corruptions=CORRUPTIONS,
            resize=0,
            size=16,
            jpeg_quality=0,
        ),
        classifier=ClassifierConfig(
            name="train",
            arch="cifar_resnet8",
            in_channels=1,
            resize=0,
            crop=16,
            mean=(0.5,),
            std=(0.5,),
            batch_size=300,
        ),
        classifier_fit=FitConfig(
            epochs=20,
            batch_size=64,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            schedule="cosine",
            warmup_epochs=1,
            label_smoothing=0.1,
            augment="shift",
            flip=False,
        ),
        synth=SynthConfig(
            weights="embedded:digits-dit",
            images_per_class=200,
            steps=25,
            sampler="ddim",
            output="round",
            guide_channels="all",
            images_per_shard=50,
            classes_per_shard=10,
            batch_size=250,
        ),
        align=AlignConfig(
            weights="embedded:digits-unet", respacing=10, start=3, scale=2.0, factor=2, batch_size=300
        ),
        diffpure=diffpure(respacing=10, start=3, noise_at_first_step=True, batch_size=300),
        finetune=FitConfig(
            epochs=6,
            batch_size=64,
            optimizer="adamw",
            lr=5e-4,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            schedule="constant",
            augment="shift",
            flip=False,
        ),
        distil=DistilConfig(steps=300, lr=1e-3, ema_decay=0.99, copies=2),
        controls=("nonaligned", "real", "projection", "finetuned", "batchnorm"),
        cheap=("one-step",),
        memo=MemoConfig(views=32, limit=10, flip=False, lr=1e-3),
        tent=TentConfig(batch_size=64, lr=1e-3, optimizer="adam"),
    )

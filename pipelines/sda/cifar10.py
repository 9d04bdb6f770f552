"""CIFAR-10 at 32x32, all from real training images: source classifier, generators, and the rows of a few
network calls beside published SDA. Meant for one GPU."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.recipes import load
from diffadapt.models.config import ClassifierConfig
from diffadapt.systems.sda import SDA


def _recipe(arch: str) -> SDA:
    base = load("sda/folder")
    unconditional = replace(
        base.unconditional_fit,
        channels=(96, 192, 192),
        layers_per_block=2,
        attention_levels=(1, 2),
        space_to_depth=1,
        steps=60_000,
        lr=4e-4,
        ema_decay=0.9995,
        precision="bf16",
    )
    return replace(
        base,
        source=replace(base.source, part=(0.0, 1.0)),
        target=replace(base.target, data=replace(base.target.data, part=(0.0, 1.0), block=500)),
        classifier=ClassifierConfig(
            name="train", arch=arch, resize=0, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=500
        ),
        classifier_fit=replace(base.classifier_fit, epochs=60),
        synth=replace(base.synth, images_per_class=5000, batch_size=1000),
        generator_fit=replace(
            base.generator_fit, channels=(6, 64, 12), steps=60_000, lr=3e-4, precision="bf16"
        ),
        unconditional_fit=unconditional,
        align=replace(base.align, respacing=100, start=50, factor=4, batch_size=1000),
        finetune=replace(base.finetune, epochs=15),
        methods=("source", "dda", "sda"),
        controls=(),
        cheap=("one-step", "few-step", "x0"),
        level=replace(base.level, images=600),
    )


def resnet20() -> SDA:
    """CIFAR-10 on one GPU: --source.path train.parquet --target.data.path test.parquet; ResNet-20."""
    return _recipe("cifar_resnet20")


def resnet56() -> SDA:
    """CIFAR-10 on one GPU: --source.path train.parquet --target.data.path test.parquet; ResNet-56."""
    return _recipe("cifar_resnet56")

"""The ablations of SDA on ImageNet-C (Tables 4 to 6 of the paper) and its data sensitivity (Table 8)."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.systems.sda.paper import sda
from diffadapt.systems.sda.recipe import SDA


def _with(recipe: SDA, **synthesis: float) -> SDA:
    return replace(recipe, synth=replace(recipe.synth, **synthesis))


def components_resnet50() -> SDA:
    """ResNet-50: with and without alignment and ensemble (component ablation)."""
    return sda(
        "resnet50",
        "imagenet-c",
        methods=("source", "dda", "sda"),
        controls=("nonaligned", "projection", "finetuned"),
    )


def components_swin_t() -> SDA:
    """Swin-T: with and without alignment and ensemble (component ablation)."""
    return sda(
        "swin_t",
        "imagenet-c",
        methods=("source", "dda", "sda"),
        controls=("nonaligned", "projection", "finetuned"),
    )


def components_convnext_t() -> SDA:
    """ConvNeXt-T: with and without alignment and ensemble (component ablation)."""
    return sda(
        "convnext_t",
        "imagenet-c",
        methods=("source", "dda", "sda"),
        controls=("nonaligned", "projection", "finetuned"),
    )


def images_1k_resnet50() -> SDA:
    """ResNet-50 with 1,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=1
    )


def images_10k_resnet50() -> SDA:
    """ResNet-50 with 10,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=10
    )


def images_50k_resnet50() -> SDA:
    """ResNet-50 with 50,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=50
    )


def images_100k_resnet50() -> SDA:
    """ResNet-50 with 100,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=100
    )


def images_1k_swin_t() -> SDA:
    """Swin-T with 1,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=1
    )


def images_10k_swin_t() -> SDA:
    """Swin-T with 10,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=10
    )


def images_50k_swin_t() -> SDA:
    """Swin-T with 50,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=50
    )


def images_100k_swin_t() -> SDA:
    """Swin-T with 100,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=100
    )


def images_1k_convnext_t() -> SDA:
    """ConvNeXt-T with 1,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=1
    )


def images_10k_convnext_t() -> SDA:
    """ConvNeXt-T with 10,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=10
    )


def images_50k_convnext_t() -> SDA:
    """ConvNeXt-T with 50,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=50
    )


def images_100k_convnext_t() -> SDA:
    """ConvNeXt-T with 100,000 synthetic images (number-of-images ablation)."""
    return _with(
        sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), images_per_class=100
    )


def guidance_1_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 1 (guidance ablation)."""
    return _with(sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.0)


def guidance_1_5_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 1.5 (guidance ablation)."""
    return _with(sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.5)


def guidance_4_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 4 (guidance ablation)."""
    return _with(sda("resnet50", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=4.0)


def guidance_1_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 1 (guidance ablation)."""
    return _with(sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.0)


def guidance_1_5_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 1.5 (guidance ablation)."""
    return _with(sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.5)


def guidance_4_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 4 (guidance ablation)."""
    return _with(sda("swin_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=4.0)


def guidance_1_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 1 (guidance ablation)."""
    return _with(sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.0)


def guidance_1_5_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 1.5 (guidance ablation)."""
    return _with(sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=1.5)


def guidance_4_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 4 (guidance ablation)."""
    return _with(sda("convnext_t", "imagenet-c", methods=("source", "dda", "sda"), controls=()), guidance=4.0)


def sensitivity_resnet50() -> SDA:
    """ResNet-50: Tent at batch 1 and 64, classes and types mixed or not (Table 8)."""
    return sda(
        "resnet50",
        "imagenet-c",
        methods=("source", "memo", "diffpure", "tent", "dda", "sda"),
        controls=(),
        tent_grid=True,
    )


def sensitivity_swin_t() -> SDA:
    """Swin-T: Tent at batch 1 and 64, classes and types mixed or not (Table 8)."""
    return sda(
        "swin_t",
        "imagenet-c",
        methods=("source", "memo", "diffpure", "tent", "dda", "sda"),
        controls=(),
        tent_grid=True,
    )


def sensitivity_convnext_t() -> SDA:
    """ConvNeXt-T: Tent at batch 1 and 64, classes and types mixed or not (Table 8)."""
    return sda(
        "convnext_t",
        "imagenet-c",
        methods=("source", "memo", "diffpure", "tent", "dda", "sda"),
        controls=(),
        tent_grid=True,
    )

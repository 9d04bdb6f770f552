"""The ablations of SDA on ImageNet-W (Tables 4 to 6 of the paper); ablations.py has those on ImageNet-C."""

from __future__ import annotations

from diffadapt.systems.sda.paper import components, varied
from diffadapt.systems.sda.recipe import SDA


def components_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W: with and without alignment and ensemble (component ablation)."""
    return components("resnet50", "imagenet-w")


def components_swin_t() -> SDA:
    """Swin-T on ImageNet-W: with and without alignment and ensemble (component ablation)."""
    return components("swin_t", "imagenet-w")


def components_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W: with and without alignment and ensemble (component ablation)."""
    return components("convnext_t", "imagenet-w")


def images_1k_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with 1,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-w", images_per_class=1)


def images_10k_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with 10,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-w", images_per_class=10)


def images_50k_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with 50,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-w", images_per_class=50)


def images_100k_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with 100,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-w", images_per_class=100)


def images_1k_swin_t() -> SDA:
    """Swin-T on ImageNet-W with 1,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-w", images_per_class=1)


def images_10k_swin_t() -> SDA:
    """Swin-T on ImageNet-W with 10,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-w", images_per_class=10)


def images_50k_swin_t() -> SDA:
    """Swin-T on ImageNet-W with 50,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-w", images_per_class=50)


def images_100k_swin_t() -> SDA:
    """Swin-T on ImageNet-W with 100,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-w", images_per_class=100)


def images_1k_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with 1,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-w", images_per_class=1)


def images_10k_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with 10,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-w", images_per_class=10)


def images_50k_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with 50,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-w", images_per_class=50)


def images_100k_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with 100,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-w", images_per_class=100)


def guidance_1_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with classifier-free guidance 1 (guidance ablation)."""
    return varied("resnet50", "imagenet-w", guidance=1.0)


def guidance_1_5_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("resnet50", "imagenet-w", guidance=1.5)


def guidance_4_resnet50() -> SDA:
    """ResNet-50 on ImageNet-W with classifier-free guidance 4 (guidance ablation)."""
    return varied("resnet50", "imagenet-w", guidance=4.0)


def guidance_1_swin_t() -> SDA:
    """Swin-T on ImageNet-W with classifier-free guidance 1 (guidance ablation)."""
    return varied("swin_t", "imagenet-w", guidance=1.0)


def guidance_1_5_swin_t() -> SDA:
    """Swin-T on ImageNet-W with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("swin_t", "imagenet-w", guidance=1.5)


def guidance_4_swin_t() -> SDA:
    """Swin-T on ImageNet-W with classifier-free guidance 4 (guidance ablation)."""
    return varied("swin_t", "imagenet-w", guidance=4.0)


def guidance_1_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with classifier-free guidance 1 (guidance ablation)."""
    return varied("convnext_t", "imagenet-w", guidance=1.0)


def guidance_1_5_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("convnext_t", "imagenet-w", guidance=1.5)


def guidance_4_convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W with classifier-free guidance 4 (guidance ablation)."""
    return varied("convnext_t", "imagenet-w", guidance=4.0)

"""The ablations of SDA on ImageNet-C (Tables 4 to 6 of the paper) and its data sensitivity (Table 8)."""

from __future__ import annotations

from diffadapt.systems.sda.paper import components, sensitivity, varied
from diffadapt.systems.sda.recipe import SDA


def components_resnet50() -> SDA:
    """ResNet-50: with and without alignment and ensemble (component ablation)."""
    return components("resnet50", "imagenet-c")


def components_swin_t() -> SDA:
    """Swin-T: with and without alignment and ensemble (component ablation)."""
    return components("swin_t", "imagenet-c")


def components_convnext_t() -> SDA:
    """ConvNeXt-T: with and without alignment and ensemble (component ablation)."""
    return components("convnext_t", "imagenet-c")


def images_1k_resnet50() -> SDA:
    """ResNet-50 with 1,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-c", images_per_class=1)


def images_10k_resnet50() -> SDA:
    """ResNet-50 with 10,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-c", images_per_class=10)


def images_50k_resnet50() -> SDA:
    """ResNet-50 with 50,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-c", images_per_class=50)


def images_100k_resnet50() -> SDA:
    """ResNet-50 with 100,000 synthetic images (number-of-images ablation)."""
    return varied("resnet50", "imagenet-c", images_per_class=100)


def images_1k_swin_t() -> SDA:
    """Swin-T with 1,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-c", images_per_class=1)


def images_10k_swin_t() -> SDA:
    """Swin-T with 10,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-c", images_per_class=10)


def images_50k_swin_t() -> SDA:
    """Swin-T with 50,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-c", images_per_class=50)


def images_100k_swin_t() -> SDA:
    """Swin-T with 100,000 synthetic images (number-of-images ablation)."""
    return varied("swin_t", "imagenet-c", images_per_class=100)


def images_1k_convnext_t() -> SDA:
    """ConvNeXt-T with 1,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-c", images_per_class=1)


def images_10k_convnext_t() -> SDA:
    """ConvNeXt-T with 10,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-c", images_per_class=10)


def images_50k_convnext_t() -> SDA:
    """ConvNeXt-T with 50,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-c", images_per_class=50)


def images_100k_convnext_t() -> SDA:
    """ConvNeXt-T with 100,000 synthetic images (number-of-images ablation)."""
    return varied("convnext_t", "imagenet-c", images_per_class=100)


def guidance_1_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 1 (guidance ablation)."""
    return varied("resnet50", "imagenet-c", guidance=1.0)


def guidance_1_5_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("resnet50", "imagenet-c", guidance=1.5)


def guidance_4_resnet50() -> SDA:
    """ResNet-50 with classifier-free guidance 4 (guidance ablation)."""
    return varied("resnet50", "imagenet-c", guidance=4.0)


def guidance_1_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 1 (guidance ablation)."""
    return varied("swin_t", "imagenet-c", guidance=1.0)


def guidance_1_5_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("swin_t", "imagenet-c", guidance=1.5)


def guidance_4_swin_t() -> SDA:
    """Swin-T with classifier-free guidance 4 (guidance ablation)."""
    return varied("swin_t", "imagenet-c", guidance=4.0)


def guidance_1_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 1 (guidance ablation)."""
    return varied("convnext_t", "imagenet-c", guidance=1.0)


def guidance_1_5_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 1.5 (guidance ablation)."""
    return varied("convnext_t", "imagenet-c", guidance=1.5)


def guidance_4_convnext_t() -> SDA:
    """ConvNeXt-T with classifier-free guidance 4 (guidance ablation)."""
    return varied("convnext_t", "imagenet-c", guidance=4.0)


def sensitivity_resnet50() -> SDA:
    """ResNet-50: Tent at batch 1 and 64, classes and types mixed or not; GDA and others (Table 8)."""
    return sensitivity("resnet50")


def sensitivity_swin_t() -> SDA:
    """Swin-T: Tent at batch 1 and 64, classes and types mixed or not; GDA and others (Table 8)."""
    return sensitivity("swin_t")


def sensitivity_convnext_t() -> SDA:
    """ConvNeXt-T: Tent at batch 1 and 64, classes and types mixed or not; GDA and others (Table 8)."""
    return sensitivity("convnext_t")

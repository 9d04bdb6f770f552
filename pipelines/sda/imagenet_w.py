"""SDA's main results on ImageNet-W (Table 2 of the paper), one recipe a model: with the paper's schedule,
and (``_code``) with the settings of the authors' scripts. `diffadapt show` lists what differs from their run.
"""

from __future__ import annotations

from diffadapt.systems.sda.paper import sda
from diffadapt.systems.sda.recipe import SDA


def resnet50() -> SDA:
    """ResNet-50 on ImageNet-W: Table 2, the paper's 15-epoch schedule."""
    return sda("resnet50", "imagenet-w")


def resnet50_code() -> SDA:
    """ResNet-50 on ImageNet-W: the authors' scripts (30 epochs, norm over ten, JPEG 75)."""
    return sda("resnet50", "imagenet-w", "code")


def swin_t() -> SDA:
    """Swin-T on ImageNet-W: Table 2, the paper's 15-epoch schedule."""
    return sda("swin_t", "imagenet-w")


def swin_t_code() -> SDA:
    """Swin-T on ImageNet-W: the authors' scripts (30 epochs, norm over ten, JPEG 75)."""
    return sda("swin_t", "imagenet-w", "code")


def convnext_t() -> SDA:
    """ConvNeXt-T on ImageNet-W: Table 2, the paper's 15-epoch schedule."""
    return sda("convnext_t", "imagenet-w")


def convnext_t_code() -> SDA:
    """ConvNeXt-T on ImageNet-W: the authors' scripts (30 epochs, norm over ten, JPEG 75)."""
    return sda("convnext_t", "imagenet-w", "code")


def swin_b() -> SDA:
    """Swin-B on ImageNet-W: Table 2, the paper's 15-epoch schedule."""
    return sda("swin_b", "imagenet-w")


def swin_b_code() -> SDA:
    """Swin-B on ImageNet-W: the authors' scripts (30 epochs, norm over ten, JPEG 75)."""
    return sda("swin_b", "imagenet-w", "code")


def convnext_b() -> SDA:
    """ConvNeXt-B on ImageNet-W: Table 2, the paper's 15-epoch schedule."""
    return sda("convnext_b", "imagenet-w")


def convnext_b_code() -> SDA:
    """ConvNeXt-B on ImageNet-W: the authors' scripts (30 epochs, norm over ten, JPEG 75)."""
    return sda("convnext_b", "imagenet-w", "code")

"""Adapt Anything on a user's own target: class names and unlabelled images in, an adapted classifier out."""

from __future__ import annotations

from diffadapt.data.config import DataConfig
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.systems.adapt_anything.recipe import AdaptAnything


def recipe() -> AdaptAnything:
    """--classes classes.txt --target photos/ --domain "webcam photos of office objects": prompts, Stable
    Diffusion, UDA, SSL."""
    return AdaptAnything(
        target=DataConfig(block=128, labels="auto"),
        uda=UdaConfig(batch_size=32),
        ssl=SslConfig(batch_size=32),
        backbone=BackboneConfig(name="resnet50.tv_in1k", batch_size=64),
    )

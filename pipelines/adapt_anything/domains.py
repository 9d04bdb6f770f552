"""Domains of your own in the form of the benchmarks: every ordered pair of them, or the transfers that you
name."""

from __future__ import annotations

from diffadapt.data.config import DataConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.systems.adapt_anything.domains import Domains


def recipe() -> Domains:
    """--data root/ (root/<domain>/<class>/<image>): every ordered pair, or --transfers a-b c-d; real source,
    all methods and seeds in one table."""
    return Domains(
        data=DataConfig(block=128),
        backbone=BackboneConfig(name="resnet50.tv_in1k", batch_size=64),
        uda=UdaConfig(epochs=20, steps_per_epoch=500),
    )

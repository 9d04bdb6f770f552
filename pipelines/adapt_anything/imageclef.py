"""ImageCLEF-DA (12 classes; c, i, p): all transfers in one table, and each transfer."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.config import strict_precision
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig
from diffadapt.systems.adapt_anything.benchmark import Benchmark, transfer_recipes


def all() -> Benchmark:
    """Real source, every transfer, the network of the published tables."""
    return strict_precision(
        Benchmark(
            benchmark="imageclef",
            backbone=BackboneConfig(
                name="resnet50.tv_in1k", resize=256, crop=224, interpolation="bicubic", batch_size=64
            ),
            uda=UdaConfig(epochs=30, steps_per_epoch=1000),
            clip=ClipConfig(),
        )
    )


def synthetic() -> Benchmark:
    """Adapt Anything's protocol: synthetic images of the classes -> every target domain, then FixMatch and
    MixMatch."""
    base = all()
    return replace(
        base,
        transfers=tuple(f"synthetic-{t}" for t in dict.fromkeys(t for _, t in base.known.pairs())),
        ssl_methods=("fixmatch", "mixmatch"),
        ssl_after="cdan",
    )


globals().update(transfer_recipes(all, __name__))

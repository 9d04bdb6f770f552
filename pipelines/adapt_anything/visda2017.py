"""VisDA-2017 (12 classes; rendered training images to photographs), mean of the classes' accuracies: all
transfers in one table, and each transfer."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.config import strict_precision
from diffadapt.models.config import BackboneConfig, ClipConfig
from diffadapt.systems.adapt_anything.benchmark import Benchmark, transfer_recipes
from diffadapt.systems.adapt_anything.published import published_training


def all() -> Benchmark:
    """Real source, every transfer, network and settings of each method as in the published tables."""
    return strict_precision(
        Benchmark(
            benchmark="visda2017",
            backbone=BackboneConfig(
                name="resnet101.tv_in1k", resize=256, crop=224, interpolation="bicubic", batch_size=64
            ),
            uda=published_training("visda2017"),
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

"""Office-31 (31 classes; amazon, dslr, webcam): all six transfers in one table, each transfer, and the
frozen-feature fast path."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.config import strict_precision
from diffadapt.methods.ssl.config import METHODS as SSL
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.uda.config import METHODS as UDA
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig
from diffadapt.systems.adapt_anything.benchmark import Benchmark, transfer_recipes
from diffadapt.systems.adapt_anything.published import published_training


def all() -> Benchmark:
    """Real source, all six transfers, ResNet-50, each method with the settings of the published tables."""
    return strict_precision(
        Benchmark(
            benchmark="office31",
            backbone=BackboneConfig(
                name="resnet50.tv_in1k", resize=256, crop=224, interpolation="bicubic", batch_size=64
            ),
            uda=published_training("office31"),
            clip=ClipConfig(),
        )
    )


def synthetic() -> Benchmark:
    """Adapt Anything's protocol: synthetic images of the 31 classes -> each of the three domains, then
    FixMatch and MixMatch."""
    return replace(
        all(),
        transfers=("synthetic-amazon", "synthetic-dslr", "synthetic-webcam"),
        ssl_methods=("fixmatch", "mixmatch"),
        ssl_after="cdan",
    )


def frozen() -> Benchmark:
    """Six transfers x 3 seeds on cached features of a frozen backbone (--backbone), then FixMatch and
    MixMatch after MCC: for a CPU."""
    return Benchmark(
        benchmark="office31",
        ssl_methods=("fixmatch", "mixmatch"),
        ssl_after="mcc",
        backbone=BackboneConfig(
            resize=256,
            crop=224,
            interpolation="bicubic",
            frozen=True,
            batch_size=64,
        ),
        # 500 steps want a faster gradient reversal than the published 1000-step one, and a CPU smaller
        # discriminators and heads.
        uda=UdaConfig(
            epochs=10,
            steps_per_epoch=50,
            dann=UDA["dann"](reversal_steps=100, hidden=256),
            cdan=UDA["cdan"](reversal_steps=100, randomized=True, randomized_width=512, hidden=512),
            mcd=UDA["mcd"](lr=0.01, features_momentum=0.9, hidden=256),
        ),
        ssl=SslConfig(epochs=10, steps_per_epoch=50, fixmatch=SSL["fixmatch"](threshold=0.9)),
    )


globals().update(transfer_recipes(all, __name__))

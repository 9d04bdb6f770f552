"""CDTrans (Xu et al., ICLR 2022) as published, on its four benchmarks with DeiT-S or DeiT-B.

Batches of 64 pairs, squash to 256 and random crop of 224, 10 epochs on the source alone and 40 on pairs,
which are made anew every 10; an epoch is one pass over the source or over the pairs. The authors start from
the distilled DeiT weights and leave the distillation token out; here it is DeiT without distillation.
"""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.config import strict_precision
from diffadapt.models.config import BackboneConfig
from diffadapt.systems.adapt_anything.benchmark import Benchmark
from diffadapt.systems.adapt_anything.published import published_training


def office31() -> Benchmark:
    """Office-31 with DeiT-S: source only and CDTrans, all six transfers."""
    return _published("office31")


def office31_base() -> Benchmark:
    """Office-31 with DeiT-B: source only and CDTrans, all six transfers."""
    return _base(office31())


def officehome() -> Benchmark:
    """Office-Home with DeiT-S: source only and CDTrans, all transfers."""
    return _published("officehome")


def officehome_base() -> Benchmark:
    """Office-Home with DeiT-B: source only and CDTrans, all transfers."""
    return _base(officehome())


def domainnet() -> Benchmark:
    """DomainNet with DeiT-S: source only and CDTrans, all transfers, one seed as published."""
    return replace(_published("domainnet"), seeds=(0,))


def domainnet_base() -> Benchmark:
    """DomainNet with DeiT-B: source only and CDTrans, all transfers, one seed as published."""
    return _base(domainnet())


def visda2017() -> Benchmark:
    """VisDA-2017 with DeiT-B at its own rates: 20 epochs on the source, 40 on pairs."""
    return _base(_published("visda2017"))


def _published(benchmark: str) -> Benchmark:
    return strict_precision(
        Benchmark(
            benchmark=benchmark,
            methods=("source_only", "cdtrans"),
            backbone=BackboneConfig(
                name="deit_small_patch16_224.fb_in1k",
                resize=256,
                crop=224,
                interpolation="bicubic",
                batch_size=64,
            ),
            uda=published_training(benchmark, "cdtrans", method="cdtrans"),
        )
    )


def _base(small: Benchmark) -> Benchmark:
    return replace(small, backbone=replace(small.backbone, name="deit_base_patch16_224.fb_in1k"))

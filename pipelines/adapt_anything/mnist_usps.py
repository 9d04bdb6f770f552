"""MNIST -> USPS and USPS -> MNIST, trained end to end with a small network at USPS's 16x16 pixels, both
transfers in one table."""

from __future__ import annotations

from diffadapt.data.config import DataConfig
from diffadapt.methods.ssl.config import METHODS as SSL
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.uda.config import METHODS as UDA
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.systems.adapt_anything.benchmark import Benchmark

_SMALL = dict(lr=0.02, backbone_lr=1.0, bottleneck=64)


def recipe() -> Benchmark:
    """Real source, trained end to end: source only, DANN, CDAN, MCD, SymNets, MCC, then FixMatch and MixMatch
    after CDAN."""
    return Benchmark(
        benchmark="digits",
        data=DataConfig(block=2000, channels=1, image_size=16),
        ssl_methods=("fixmatch", "mixmatch"),
        backbone=BackboneConfig(
            name="train",
            arch="cifar_resnet8",
            in_channels=1,
            resize=16,
            crop=16,
            mean=(0.5,),
            std=(0.5,),
            crop_mode="center",
            batch_size=500,
        ),
        uda=UdaConfig(
            epochs=5,
            steps_per_epoch=100,
            batch_size=64,
            augment="shift",
            flip=False,
            source_only=UDA["source_only"](**_SMALL),
            dann=UDA["dann"](**_SMALL),
            cdan=UDA["cdan"](**_SMALL),
            symnets=UDA["symnets"](**_SMALL),
            mcc=UDA["mcc"](**_SMALL),
            mcd=UDA["mcd"](lr=0.02, features_momentum=0.9, hidden=256),
        ),
        ssl=SslConfig(
            epochs=5,
            steps_per_epoch=100,
            batch_size=64,
            augment="shift",
            flip=False,
            fixmatch=SSL["fixmatch"](lr=0.02, backbone_lr=1.0),
            mixmatch=SSL["mixmatch"](lr=0.02, backbone_lr=1.0),
        ),
    )

"""Office-31 on a CPU: the backbone's features are cached once, and every method trains what lies behind them."""

from __future__ import annotations

from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.systems.benchmark import Benchmark


def recipe() -> Benchmark:
    """Six transfers x 3 seeds on cached features of a frozen backbone (--backbone), then FixMatch and MixMatch after CDAN."""
    return Benchmark(
        benchmark="office31",
        ssl_methods=("fixmatch", "mixmatch"),
        backbone=BackboneConfig(frozen=True, weak_views=4, strong_views=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), batch_size=64),
        uda=UdaConfig(epochs=10, steps_per_epoch=100),
        ssl=SslConfig(epochs=5, steps_per_epoch=100),
    )

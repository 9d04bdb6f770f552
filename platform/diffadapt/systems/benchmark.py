"""The name under which recipe files of one's own know :mod:`diffadapt.systems.adapt_anything.benchmark`."""

from diffadapt.systems.adapt_anything.benchmark import SYNTHETIC, Benchmark, transfer_recipes

__all__ = ["SYNTHETIC", "Benchmark", "transfer_recipes"]

"""Adapt Anything: the recipe types (a run, a benchmark), published figures, its part of reports."""

from diffadapt.systems.adapt_anything.benchmark import SYNTHETIC, Benchmark, transfer_recipes
from diffadapt.systems.adapt_anything.recipe import CONTROLS, VALIDATORS, AdaptAnything, check_methods

__all__ = [
    "CONTROLS",
    "SYNTHETIC",
    "VALIDATORS",
    "AdaptAnything",
    "Benchmark",
    "check_methods",
    "transfer_recipes",
]

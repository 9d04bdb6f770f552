"""Adapt Anything: the recipe types (a run, a benchmark), published figures, its part of reports."""

from diffadapt.core.functions import lazily

__getattr__ = lazily(
    __name__,
    {
        "recipe": ("CONTROLS", "VALIDATORS", "AdaptAnything", "check_methods"),
        "benchmark": ("SYNTHETIC", "Benchmark", "transfer_recipes"),
    },
)

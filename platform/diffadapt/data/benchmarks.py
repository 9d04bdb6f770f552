"""Benchmarks of unsupervised domain adaptation by name (see benchmark_sets/).

Labels are positions in the class names, and names come from class folders (or a class_name column), never
from the numbers in image lists, whose order differs between public tools. Counts are checked against the
published ones.
"""

from __future__ import annotations

from diffadapt.core.discover import Seam
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.data.benchmark import Benchmark

SETS = Seam("benchmark", "diffadapt.data.benchmark_sets", "DIFFADAPT_BENCHMARKS", Benchmark, values=True)
_FIRST = ("office31", "officehome", "imageclef", "visda2017", "domainnet", "digits")
BENCHMARKS: dict[str, Benchmark] = {name: SETS.load(name) for name in SETS.choices(*_FIRST)}
"""Name -> benchmark."""


def benchmark(name: str) -> Benchmark:
    """Raises RecipeError for an unknown name."""
    if name not in BENCHMARKS:
        raise RecipeError(
            f"There is no benchmark {name!r}.{suggest(name, BENCHMARKS)} Known are: {', '.join(BENCHMARKS)}."
        )
    return BENCHMARKS[name]


def published_count(name: str, domain: str) -> int:
    """Images of a domain (or of its ``_test`` part) as published."""
    return benchmark(name).counts[domain]

"""Metrics: each a :class:`diffadapt.core.metric.Metric` at the top of a file of this folder, found there."""

from __future__ import annotations

import pkgutil
from functools import lru_cache

from diffadapt.core.discover import extend, import_file
from diffadapt.core.metric import PLACES, Metric

extend(__path__, "DIFFADAPT_METRICS")


@lru_cache(maxsize=1)
def known() -> dict[str, Metric]:
    """Every metric by name, on the target. Raises RecipeError for a file that cannot be imported."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = [import_file(f"{__name__}.{name}", f"The metric file {name}.py") for name in names]
    return {m.name: m for module in modules for m in vars(module).values() if isinstance(m, Metric)}


def metric(name: str) -> Metric:
    """The metric of a score (``miou``, ``miou_source``, ``iou.road``); of an unknown name a value without a
    unit."""
    plain = name.partition(".")[0]
    if plain in known():
        return known()[plain]
    base, _, place = name.rpartition("_")
    if base in known() and place in PLACES:
        return known()[base].on(place)
    return Metric(name, name, "", unit="")

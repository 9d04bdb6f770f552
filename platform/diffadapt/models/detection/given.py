"""Weights that a recipe gives a detector, looked at while planning."""

from __future__ import annotations

import functools

from diffadapt.core.errors import WeightsError
from diffadapt.core.leniency import missing
from diffadapt.models import weights
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.source import is_path, path_of


def detector_notes(config: DetectorConfig, classes: int) -> tuple[str, ...]:
    """A sentence on what is chosen of given weights that hold more than the detector. Raises WeightsError for
    those that do not fit it; what is not at hand is noted when planning leniently."""
    if not is_path(config.weights) or config.arch == "transformers":
        return ()
    try:
        revision = weights.content_revision(str(path_of(config.weights)))
    except WeightsError as error:
        missing(error)
        return ()
    note = _looked_at(config, classes, revision)
    return (note,) if note else ()


@functools.lru_cache(maxsize=16)
def _looked_at(config: DetectorConfig, classes: int, revision: str) -> str:
    from diffadapt.models.detection.build import look_at_detector

    return look_at_detector(config, classes)

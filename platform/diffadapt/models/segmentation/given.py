"""Weights that a recipe gives a segmenter, looked at while planning."""

from __future__ import annotations

import functools

from diffadapt.core.errors import WeightsError
from diffadapt.core.leniency import missing
from diffadapt.models import weights
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.source import local_place


def segmenter_notes(config: SegmenterConfig) -> tuple[str, ...]:
    """A sentence on what is chosen of given weights that hold more than the backbone. Raises WeightsError for
    those that do not fit it; what is not at hand is noted when planning leniently."""
    given = config.weights not in ("imagenet", "none") and not config.weights.startswith("embedded:")
    if not given or config.arch == "segformer":
        return ()
    try:
        revision = weights.content_revision(local_place(config))
    except WeightsError as error:
        missing(error)
        return ()
    note = _looked_at(config.backbone, config.weights, revision)
    return (note,) if note else ()


@functools.lru_cache(maxsize=16)
def _looked_at(backbone: str, given: str, revision: str) -> str:
    from diffadapt.models.segmentation.backbones import look_at_backbone

    return look_at_backbone(backbone, given)

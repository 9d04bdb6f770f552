"""The mean and deviation that the weights of a segmenter or detector want: those that are published with
them, as for classifiers (models/inputs.py), unless the recipe gives others. Knows no torch unless timm must
be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from diffadapt.core.foreign import parse
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.source import MARKER, is_path
from diffadapt.models.inputs import NOTHING_SAID, Inputs, own_inputs, said_otherwise
from diffadapt.models.segmentation.config import SegmenterConfig

D = TypeVar("D", bound=SegmenterConfig | DetectorConfig)
FIELDS = ("mean", "std")
HALVES = replace(NOTHING_SAID, mean=(0.5,) * 3, std=(0.5,) * 3)
_AS_MOBILE = ("ssdlite320_mobilenet_v3_large",)
"""torchvision's detectors that were trained on images between -1 and 1."""


def with_normalisation(config: D) -> D:
    """``config`` with the weights' own mean and deviation where it gives none; ImageNet's where they say
    nothing."""
    if None not in (config.mean, config.std):
        return config
    known = own_normalisation(config) or NOTHING_SAID
    return replace(config, **{k: getattr(known, k) for k in FIELDS if getattr(config, k) is None})


def normalisation_differences(config: SegmenterConfig | DetectorConfig) -> str:
    """One sentence on a mean or deviation that the recipe gives otherwise than the weights say; '' for
    none."""
    known = own_normalisation(config)
    if known is None:
        return ""
    return said_otherwise(_name(config), with_normalisation(config), {k: getattr(known, k) for k in FIELDS})


def own_normalisation(config: SegmenterConfig | DetectorConfig) -> Inputs | None:
    """What is known of it; None: the weights say nothing, are random, or are not at hand."""
    if config.weights == "none":
        return None
    if isinstance(config, DetectorConfig) and config.arch in _AS_MOBILE and config.weights == "coco":
        return HALVES
    if isinstance(config, DetectorConfig) and is_path(config.weights):
        return _of_detector(config)
    place = _name(config)
    return own_inputs(ClassifierConfig(name=place)) if place else None


def _name(config: SegmenterConfig | DetectorConfig) -> str:
    """The weights as a classifier's configuration names them; '' for torchvision's own."""
    if config.weights not in ("imagenet", "coco"):
        return config.weights
    body = config.backbone.removeprefix("timm:")
    if config.arch in ("segformer", "transformers"):
        return body if Path(body).expanduser().is_dir() else f"hf-hub:{body}"
    return body if body != config.backbone or config.arch == "linear" else ""


def _of_detector(config: DetectorConfig) -> Inputs | None:
    """Of a fitted detector's folder what it was trained with; of a checkpoint file what torchvision's
    detector of that name wants."""
    try:
        values: Any = parse((Path(config.weights).expanduser() / MARKER).read_bytes())["config"]
        return replace(NOTHING_SAID, **{k: tuple(map(float, values[k])) for k in FIELDS})
    except (OSError, ValueError, KeyError, TypeError):
        return HALVES if config.arch in _AS_MOBILE else None

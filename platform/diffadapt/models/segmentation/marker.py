"""segmenter.json, what a segmenter's folder says of itself. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffadapt.core.config import from_dict
from diffadapt.core.errors import DiffadaptError, WeightsError
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.segmentation.config import SegmenterConfig

MARKER = "segmenter.json"
FORMAT = 1


class Marker(NamedTuple):
    """``network``: the facts that the network is built from again; ``extra``: as
    models/segmentation/folder.py's save_segmenter got it."""

    config: SegmenterConfig
    classes: ClassTable
    network: Mapping[str, Any]
    extra: dict[str, Any]
    parameters: int


def read_marker(folder: str | Path) -> Marker:
    """What the folder's segmenter.json holds. Raises WeightsError if there is none, or it is damaged or of
    another version."""
    file = Path(folder) / MARKER
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"The folder {str(folder)!r} has no {MARKER}: it holds no segmenter of diffadapt."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The file {str(file)!r} cannot be read ({type(error).__name__}: {error}): copy the folder again."
        ) from error
    return parse_marker(values, str(file))


def parse_marker(values: Any, where: str) -> Marker:
    """The parsed JSON of a segmenter.json. Raises WeightsError as :func:`read_marker` does."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(f"The file {where!r} is not of format {FORMAT}, the one that this version reads.")
    try:
        config, classes = (
            from_dict(SegmenterConfig, values["config"]),
            from_dict(ClassTable, values["classes"]),
        )
        return Marker(
            config,
            classes,
            dict(values["network"]),
            dict(values.get("extra") or {}),
            int(values["parameters"]),
        )
    except (DiffadaptError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The file {where!r} describes no segmenter ({type(error).__name__}: {error}): it is damaged or"
            " of another version."
        ) from error

"""A fitted detector as a folder: detector.json, model.safetensors and a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffadapt.compute.compiling import channels_last
from diffadapt.core.config import to_dict
from diffadapt.core.errors import WeightsError
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.card import escape
from diffadapt.models.detection.build import build_detector
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.network import DetectionNetwork
from diffadapt.models.detection.source import MARKER, detector_facts
from diffadapt.models.folder import ModelFolder
from diffadapt.models.normalisation import with_normalisation

FOLDER = ModelFolder(MARKER, DetectorConfig, build_detector)


def save_detector(
    net: DetectionNetwork,
    folder: str | Path,
    config: DetectorConfig,
    classes: ClassTable,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``net``; ``extra`` (JSON values: method, settings of the training) goes to detector.json and the
    card."""
    config = with_normalisation(config)
    backbone = Path(config.backbone).name if config.arch == "transformers" else config.backbone
    plain = replace(config, weights="none", backbone=backbone)
    values = {
        "format": 1,
        "config": to_dict(plain, identity_only=True),
        "classes": to_dict(classes),
        "facts": net.facts,
        "diffadapt": dict(extra or {}),
    }
    card = _card(config, classes, extra or {})
    return FOLDER.write(folder, net, values, card, indent=1, sort_keys=True)


def load_detector(
    folder: str | Path, device: str | torch.device = "cpu", thresholds: DetectorConfig | None = None
) -> tuple[DetectionNetwork, DetectorConfig, ClassTable, dict[str, Any]]:
    """(network in evaluation mode, its configuration, its classes, what was saved as ``extra``).

    ``thresholds``: whose score, overlap and detections are to hold instead of the saved ones. Raises
    WeightsError for a folder that :func:`save_detector` did not write, or a damaged one.
    """
    values = detector_facts(folder)
    try:
        config, classes = FOLDER.settings(values)
        if thresholds is not None:
            config = replace(
                config, score=thresholds.score, overlap=thresholds.overlap, detections=thresholds.detections
            )
        net = FOLDER.build(config, len(classes.names), values["facts"])
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"The file {MARKER} in {str(folder)!r} is damaged ({type(error).__name__}: {error}): train the"
            " detector again."
        ) from error
    net = FOLDER.fill(net, folder, _shared)
    channels_last(net, device)
    return net, config, classes, values["diffadapt"]


def _shared(net: DetectionNetwork, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` and the tensors with a second name, which are stored once."""
    own = net.state_dict()
    by_place = {v.data_ptr(): k for k, v in own.items() if k in state}
    twins = {k: by_place.get(v.data_ptr()) for k, v in own.items() if k not in state}
    return {**{k: state[twin] for k, twin in twins.items() if twin is not None}, **state}


def _card(config: DetectorConfig, classes: ClassTable, extra: Mapping[str, Any]) -> str:
    lines = ["---", "pipeline_tag: object-detection", "tags:", "- object-detection", "---"]
    lines += [f"# {escape(config.arch)}, {len(classes.names)} classes", "", "Made with diffadapt.", ""]
    lines += ["| | |", "| --- | --- |", f"| Input | {config.size[0]} x {config.size[1]} pixels, RGB |"]
    lines += [f"| Mean | {', '.join(map(str, config.mean))} |"]
    lines += [f"| Standard deviation | {', '.join(map(str, config.std))} |"]
    plain = {k: v for k, v in extra.items() if not isinstance(v, (Mapping, list, tuple))}
    lines += [f"| {escape(k)} | {escape(v)} |" for k, v in plain.items()]
    lines += ["", "## Classes", "", ", ".join(escape(n) for n in classes.names), "", "## Limitations", ""]
    lines += [
        "- Trained for one target domain; accuracy elsewhere was not measured.",
        "- Transferred training images come from a generator and carry its biases.",
        "- Scores are not calibrated.",
    ]
    return "\n".join(lines) + "\n"

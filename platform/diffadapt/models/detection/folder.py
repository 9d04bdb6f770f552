"""A fitted detector as a folder: detector.json, model.safetensors and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.errors import WeightsError
from diffadapt.models.card import escape
from diffadapt.models.detection.build import build_detector
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.network import DetectionNetwork
from diffadapt.models.detection.source import MARKER, detector_facts
from diffadapt.models.state_dict import load_into, read_state_dict

if TYPE_CHECKING:
    from diffadapt.data.scenes.table import ClassTable


def save_detector(
    net: DetectionNetwork,
    folder: str | Path,
    config: DetectorConfig,
    classes: ClassTable,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``net``; ``extra`` (JSON values: method, settings of the training) goes to detector.json and the
    card."""
    from safetensors.torch import save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(net, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    plain = replace(
        config,
        weights="none",
        backbone=config.backbone if config.arch != "transformers" else Path(config.backbone).name,
    )
    values = {
        "format": 1,
        "config": to_dict(plain, identity_only=True),
        "classes": to_dict(classes),
        "facts": net.facts,
        "diffadapt": dict(extra or {}),
    }
    (folder / MARKER).write_text(
        json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
    (folder / "README.md").write_text(_card(config, classes, extra or {}), encoding="utf-8")
    return folder


def load_detector(
    folder: str | Path, device: str | torch.device = "cpu", thresholds: DetectorConfig | None = None
) -> tuple[DetectionNetwork, DetectorConfig, ClassTable, dict[str, Any]]:
    """(network in evaluation mode, its configuration, its classes, what was saved as ``extra``).

    ``thresholds``: whose score, overlap and detections are to hold instead of the saved ones. Raises
    WeightsError for a folder that :func:`save_detector` did not write, or a damaged one.
    """
    from diffadapt.data.scenes.table import ClassTable

    values = detector_facts(folder)
    try:
        config, classes = (
            from_dict(DetectorConfig, values["config"]),
            from_dict(ClassTable, values["classes"]),
        )
        if thresholds is not None:
            config = replace(
                config, score=thresholds.score, overlap=thresholds.overlap, detections=thresholds.detections
            )
        net = build_detector(config, len(classes.names), values["facts"])
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"The file {MARKER} in {str(folder)!r} is damaged ({type(error).__name__}: {error}): train the"
            " detector again."
        ) from error
    state = read_state_dict(str(Path(folder) / "model.safetensors"))
    own = net.state_dict()
    shared = {k: v for k, v in own.items() if k not in state}  # tensors with two names are stored once
    load_into(net, {**_shared_from(own, state, shared), **state}, str(folder))
    return net.eval().to(device), config, classes, values["diffadapt"]


def _shared_from(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], lacking: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    by_place = {v.data_ptr(): k for k, v in own.items() if k in state}
    return {k: state[by_place[v.data_ptr()]] for k, v in lacking.items() if v.data_ptr() in by_place}


def _card(config: DetectorConfig, classes: ClassTable, extra: Mapping[str, Any]) -> str:
    lines = [
        "---",
        "pipeline_tag: object-detection",
        "tags:",
        "- object-detection",
        "---",
        f"# {escape(config.arch)}, {len(classes.names)} classes",
        "",
        "Made with diffadapt.",
        "",
    ]
    lines += ["| | |", "| --- | --- |", f"| Input | {config.size[0]} x {config.size[1]} pixels, RGB |"]
    lines += [
        f"| Mean | {', '.join(map(str, config.mean))} |",
        f"| Standard deviation | {', '.join(map(str, config.std))} |",
    ]
    lines += [
        f"| {escape(k)} | {escape(v)} |"
        for k, v in extra.items()
        if not isinstance(v, (Mapping, list, tuple))
    ]
    lines += ["", "## Classes", "", ", ".join(escape(n) for n in classes.names), "", "## Limitations", ""]
    lines += [
        "- Trained for one target domain; accuracy elsewhere was not measured.",
        "- Transferred training images come from a generator and carry its biases.",
        "- Scores are not calibrated.",
    ]
    return "\n".join(lines) + "\n"

"""A fitted segmenter as a folder: segmenter.json, model.safetensors and a card. It is rebuilt without
downloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffadapt.core.config import to_dict
from diffadapt.core.errors import DiffadaptError, WeightsError
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.segmentation.build import rebuild_segmenter
from diffadapt.models.segmentation.card import segmenter_card
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.marker import FORMAT, MARKER, read_marker
from diffadapt.models.segmentation.network import SegmentationNetwork
from diffadapt.models.state_dict import load_into, read_state_dict

STATE, CARD = "model.safetensors", "README.md"


def save_segmenter(
    net: SegmentationNetwork,
    folder: str | Path,
    config: SegmenterConfig,
    classes: ClassTable,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder and return it. ``extra`` (JSON values) goes to segmenter.json and onto the card:
    ``method``, ``selection``, ``metrics``, ``data``, ``training``, ``limitations``; other names are listed.
    Paths of this machine are left out.
    """
    folder, extra = Path(folder), dict(extra or {})
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in net.portable_state().items()}
    save_file(state, folder / STATE, metadata={"format": "pt"})
    (folder / STATE).chmod(0o644)
    config = _without_paths(config)
    count = sum(p.numel() for p in net.parameters())
    values = {
        "format": FORMAT,
        "config": to_dict(config),
        "classes": to_dict(classes),
        "network": net.facts,
        "parameters": count,
        "extra": extra,
    }
    (folder / MARKER).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(segmenter_card(config, classes, extra, count), encoding="utf-8")
    return folder


def load_segmenter(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[SegmentationNetwork, SegmenterConfig, ClassTable, dict[str, Any]]:
    """(network in evaluation mode on ``device``, its configuration, its classes, ``extra`` of
    :func:`save_segmenter`).

    Raises WeightsError for a folder that holds no segmenter, or one that does not fit its description.
    """
    folder = Path(folder)
    config, classes, facts, extra, _ = read_marker(folder)
    try:
        net = rebuild_segmenter(config, len(classes.names), facts)
    except (DiffadaptError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The segmenter in {str(folder)!r} cannot be rebuilt ({type(error).__name__}: {error}):"
            " segmenter.json is damaged or of another version."
        ) from error
    state = read_state_dict(str(folder / STATE))
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    if hasattr(net.backbone, "load_portable"):
        net.backbone.load_portable(inner, str(folder))
        own = {f"backbone.{k}": v for k, v in net.backbone.state_dict().items()}
        state = {**own, **{k: v for k, v in state.items() if not k.startswith("backbone.")}}
    load_into(net, state, str(folder))
    return net.to(device).eval(), config, classes, extra


def _without_paths(config: SegmenterConfig) -> SegmenterConfig:
    """Given weights become 'none' (the folder's own replace them), a folder as backbone its name."""
    if config.weights not in ("imagenet", "none"):
        config = replace(config, weights="none")
    return (
        replace(config, backbone=Path(config.backbone).expanduser().resolve().name)
        if Path(config.backbone).expanduser().is_dir()
        else config
    )

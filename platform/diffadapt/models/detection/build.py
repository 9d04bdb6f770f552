"""Makes the detector of a configuration, with published weights, those of a file or folder, or random
ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from diffadapt.core.errors import WeightsError
from diffadapt.models.classifier import weightless
from diffadapt.models.detection.config import HEADS, PUBLISHED, DetectorConfig
from diffadapt.models.detection.network import DetectionNetwork, TorchvisionDetector, TransformersDetector
from diffadapt.models.detection.source import check_detector, is_path, path_of
from diffadapt.models.pretrained import from_config, from_pretrained
from diffadapt.models.state_dict import Checkpoint, arranged, demand_fit, load_into, read_checkpoint

_FROZEN = ("fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn")
"""What torchvision publishes with batch norms that are not trained."""
_BY_CLASS = (
    "box_predictor",
    "classification_head",
    "class_embed",
    "class_labels_classifier",
    "denoising_class_embed",
    "score_head",
)
"""Layers whose shape depends on the number of classes, in torchvision and transformers."""


def look_at_detector(config: DetectorConfig, classes: int) -> str:
    """What is chosen of a given file's or folder's weights, as a sentence or ''; only shapes are read. Raises
    WeightsError where :func:`build_detector` would."""
    said: list[str] = []

    def look(net: DetectionNetwork, name: str) -> None:
        found = read_checkpoint(_file(name), shapes_only=True)
        said.append(_fill(net, name, found, demand_fit))

    weightless(lambda: build_detector(config, classes, fill=look))
    return said[-1]


def build_detector(
    config: DetectorConfig,
    classes: int,
    facts: Mapping[str, Any] | None = None,
    fill: Callable[[DetectionNetwork, str], object] | None = None,
) -> DetectionNetwork:
    """A detector of ``classes`` classes in training mode on the CPU.

    ``facts``: those of an earlier network (``DetectionNetwork.facts``), to be filled with its own weights, so
    that nothing published is loaded. Raises RecipeError or WeightsError for a configuration that cannot be
    built or weights that are missing or do not fit.
    """
    check_detector(config)
    if config.arch == "transformers":
        return _transformers(config, classes, facts)
    if config.arch in HEADS:
        from diffadapt.models.detection.pyramid import with_head

        model, known = with_head(config, classes, facts)
        fixed = False
    else:
        model, known = _skeleton(config, classes), {}
        fixed = config.arch in _FROZEN and config.weights != "none"
        if facts is None and config.weights in ("coco", "imagenet"):
            _publish(model, config)
    net = TorchvisionDetector(model, fixed if facts is None else bool(facts["fixed_norm"]), known)
    if facts is None and is_path(config.weights):
        (fill or _load)(net, config.weights)
    return net.train()


def _skeleton(config: DetectorConfig, classes: int) -> nn.Module:
    """torchvision's detector with random weights and plain batch norms, for ``classes`` classes and
    background."""
    from torchvision.models import detection

    names = (
        ("box_score_thresh", "box_nms_thresh", "box_detections_per_img")
        if "fasterrcnn" in config.arch
        else ("score_thresh", "nms_thresh", "detections_per_img")
    )
    return getattr(detection, config.arch)(
        weights=None,
        weights_backbone=None,
        num_classes=classes + 1,
        **dict(zip(names, (config.score, config.overlap, config.detections), strict=True)),
    )


def _publish(model: nn.Module, config: DetectorConfig) -> None:
    """Fill ``model`` with what torchvision publishes, downloading it if it is not cached."""
    from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, detection

    try:
        if config.weights == "coco":
            enum, _, member = PUBLISHED[config.arch].partition(".")
            state = getattr(detection, enum)[member].get_state_dict(progress=False, check_hash=True)
        else:
            backbone = (
                MobileNet_V3_Large_Weights.IMAGENET1K_V1
                if "mobilenet" in config.arch
                else ResNet50_Weights.IMAGENET1K_V1
            )
            whole = getattr(detection, config.arch)(
                weights=None, weights_backbone=backbone, num_classes=2, progress=False
            )
            state = {f"backbone.body.{k}": v for k, v in whole.backbone.body.state_dict().items()}
    except Exception as error:  # urllib, ssl and socket raise many unrelated types
        raise WeightsError(
            f"torchvision's {config.weights} weights of {config.arch} could not be loaded"
            f" ({type(error).__name__}): put the file into torch's hub cache where there is a network, or"
            " give it with detector.weights."
        ) from error
    load_some(model, state, f"torchvision's {config.weights} weights", partial=config.weights == "imagenet")


def _load(net: DetectionNetwork, name: str) -> None:
    _fill(net, name, read_checkpoint(_file(name)), load_into)


def _file(name: str) -> str:
    path = path_of(name)
    return str(path / "model.safetensors" if path.is_dir() else path)


def _fill(
    net: DetectionNetwork, name: str, found: Checkpoint, fill: Callable[[Any, Any, str], object]
) -> str:
    """Fill ``net`` with what a checkpoint has of it; a sentence on what was chosen."""
    plain = {k.removeprefix("model."): k for k in net.state_dict()}  # torchvision's own names
    chosen = arranged(found, plain)
    load_some(net, {plain.get(k, f"model.{k}"): v for k, v in chosen.state.items()}, name, fill=fill)
    return chosen.note(name)


def load_some(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    where: str,
    partial: bool = False,
    fill: Callable[[Any, Any, str], object] = load_into,
) -> list[str]:
    """Copy ``state`` into ``model``; layers that depend on the classes stay as they are where their shapes
    differ.

    Returns the names of tensors left out. ``partial``: what ``state`` lacks stays as it is too. Raises
    WeightsError for all else that does not fit.
    """
    own = model.state_dict()
    left = [
        k
        for k, v in state.items()
        if k in own and own[k].shape != v.shape and any(part in k for part in _BY_CLASS)
    ]
    kept = {k: own[k] for k in left}
    if partial:
        kept = {**own, **kept}
    fill(
        model,
        {
            **{k: v for k, v in state.items() if k not in left},
            **{k: v for k, v in kept.items() if k in left or k not in state},
        },
        where,
    )
    return left


def _transformers(config: DetectorConfig, classes: int, facts: Mapping[str, Any] | None) -> DetectionNetwork:
    from transformers import AutoConfig, AutoModelForObjectDetection

    from diffadapt.models.segmentation.segformer import quiet

    if facts is not None:
        values = dict(facts["transformers"])
        kind = AutoConfig.for_model(values.pop("model_type"), **values)
        model = from_config(AutoModelForObjectDetection, kind, config.backbone)
        return TransformersDetector(model, config.score, config.detections).train()
    names = {"id2label": {i: str(i) for i in range(classes)}, "label2id": {str(i): i for i in range(classes)}}
    lacking: list[str] = []
    try:
        with quiet():
            if config.weights == "coco":
                model, info = from_pretrained(
                    AutoModelForObjectDetection,
                    config.backbone,
                    ignore_mismatched_sizes=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **names,
                )
                lacking = [
                    *info["missing_keys"],
                    *(k[0] if isinstance(k, tuple) else k for k in info["mismatched_keys"]),
                ]
            else:
                values = from_pretrained(AutoConfig, config.backbone, **names)
                if hasattr(values, "use_pretrained_backbone"):
                    values.use_pretrained_backbone = False
                # DETR would keep a random backbone as it is
                model = from_config(AutoModelForObjectDetection, values, config.backbone).requires_grad_(True)
    except WeightsError:
        raise
    except Exception as error:  # the hub client and transformers raise many unrelated types
        raise WeightsError(
            f"The detector {config.backbone!r} could not be loaded ({type(error).__name__}:"
            f" {str(error).splitlines()[0][:200]}): give the folder or hub id of an object detector of"
            " transformers."
        ) from error
    lacking = [k for k in lacking if not any(part in k for part in _BY_CLASS)]
    if lacking:
        raise WeightsError(
            f"The detector {config.backbone!r} lacks {len(lacking)} parameters ({', '.join(lacking[:3])},"
            " ...): it holds another network."
        )
    net = TransformersDetector(model, config.score, config.detections)
    if is_path(config.weights):
        _load(net, config.weights)
    return net.train()

"""Where a detector's weights come from and which revision they are; what planning can refuse. Knows no
torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError, UnfitError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.core.leniency import missing
from diffadapt.models import weights
from diffadapt.models.detection.config import HEADS, PUBLISHED, DetectorConfig

MARKER = "detector.json"
"""The file that tells the folder of a fitted detector."""
SUFFIXES = (".safetensors", ".pt", ".pth")


def detector_identity(config: DetectorConfig) -> dict[str, Any]:
    """Identity fields without paths and hub ids: weights count by revision."""
    fields = to_dict(config, identity_only=True)
    if is_path(config.weights):
        fields["weights"] = "given"
    if config.arch == "transformers":
        fields["backbone"] = ""
    return fields


def detector_revisions(config: DetectorConfig) -> dict[str, str]:
    """Revisions by role; empty where all weights are random. Raises WeightsError, or notes it, for weights
    that are not at hand."""
    result = {}
    if config.arch == "transformers":
        result["detector"] = weights.revision(config.backbone)
    if is_path(config.weights):
        try:
            result["weights"] = weights.content_revision(str(path_of(config.weights)))
        except WeightsError as error:
            missing(error)
            result["weights"] = f"missing:{config.weights}"
    elif config.weights == "coco" and config.arch in PUBLISHED:
        result["detector"] = f"torchvision:{PUBLISHED[config.arch]}"
    elif config.weights == "imagenet" and config.backbone.startswith("timm:"):
        result["backbone"] = weights.revision("timm/" + config.backbone.removeprefix("timm:"))
    elif config.weights == "imagenet":
        result["backbone"] = "torchvision:imagenet"
    return result


def is_path(name: str) -> bool:
    """Whether ``DetectorConfig.weights`` names a file or folder."""
    return name not in ("coco", "imagenet", "none")


def path_of(name: str) -> Path:
    """The file or folder. Raises WeightsError if there is none, or a file of an unknown kind."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / MARKER).is_file():
            raise UnfitError(
                f"The folder {name!r} holds no {MARKER}, so it is no detector of this project: give a fitted"
                " detector's folder or a checkpoint file."
            )
        return path
    if not path.is_file():
        raise WeightsError(
            f"There are no detector weights at {name!r}: give coco, imagenet, none, or an existing checkpoint"
            " file or detector folder."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise UnfitError(f"The detector file {name!r} has none of the known endings {', '.join(SUFFIXES)}.")
    return path


def check_detector(config: DetectorConfig, similarity: float = 0.0) -> None:
    """Raise RecipeError or WeightsError for a detector that cannot be made, as far as that shows before
    anything is loaded."""
    if any(v is not None and len(v) != 3 for v in (config.mean, config.std)):
        raise RecipeError(
            "detector.mean and detector.std need three values each (red, green, blue), but are"
            f" {config.mean} and {config.std}."
        )
    if config.arch in HEADS:
        _check_backbone(config)
    elif config.arch == "transformers":
        if not config.backbone:
            raise RecipeError(
                "detector.arch is transformers, but detector.backbone is empty: name a model folder or hub"
                " id, e.g. facebook/detr-resnet-50."
            )
        if config.weights == "imagenet":
            raise RecipeError(
                "detector.weights is imagenet, but a transformers detector comes whole: give coco for its own"
                " weights, or none."
            )
        if similarity:
            raise RecipeError(
                "training.similarity compares the backbone's feature maps, which transformers detectors do"
                " not show: set it to 0, or take another detector.arch."
            )
        _check_type(config.backbone)
    elif config.arch.startswith("ssdlite") and config.weights == "imagenet":
        raise RecipeError(
            "detector.weights is imagenet, but that detector's smaller backbone was never published alone:"
            " give coco or none."
        )
    elif config.backbone:
        raise RecipeError(
            f"detector.backbone is {config.backbone!r}, but {config.arch} has its own: leave it empty, or"
            f" take one of {', '.join(HEADS)}."
        )
    if is_path(config.weights):
        try:
            folder = path_of(config.weights)
        except WeightsError as error:
            missing(error)
            return
        if folder.is_dir() and (arch := detector_facts(folder)["config"].get("arch")) != config.arch:
            raise WeightsError(
                f"The folder {config.weights!r} holds a {arch} detector, but detector.arch is {config.arch}."
            )


def detector_facts(folder: str | Path) -> dict:
    """detector.json of a fitted detector's folder. Raises WeightsError if it is missing, damaged or of
    another format."""
    try:
        values = parse((Path(folder) / MARKER).read_bytes())
        known, _ = values["format"], values["config"]["arch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The folder {str(folder)!r} holds no detector ({type(error).__name__} in {MARKER}): train it"
            " again."
        ) from error
    if known != 1:
        raise WeightsError(
            f"The detector in {str(folder)!r} is of format {known}, which this version does not read: train"
            " it again."
        )
    return values


def _check_backbone(config: DetectorConfig) -> None:
    name = config.backbone
    if name not in ("tiny", "resnet50", "resnet101") and not name.startswith("timm:"):
        raise RecipeError(
            f"detector.backbone is {name!r}, but {config.arch} needs one: tiny, resnet50, resnet101, or"
            " timm:<name> of a timm model with feature maps."
        )
    if config.weights == "coco":
        raise RecipeError(
            f"detector.weights is coco, but nobody publishes a {config.arch} on {name}: give imagenet (the"
            " backbone's weights), none, or a file or folder."
        )
    if config.weights == "imagenet" and name == "tiny":
        raise RecipeError(
            "detector.weights is imagenet, but the tiny backbone has no published weights: give none."
        )


def _check_type(name: str) -> None:
    """RecipeError for a local folder that is no object detector."""
    file = Path(name).expanduser() / "config.json"
    if not file.is_file():
        return
    try:
        architectures = parse(file.read_bytes()).get("architectures") or []
    except (ValueError, AttributeError) as error:
        raise WeightsError(
            f"The file {str(file)!r} is not a model's configuration ({type(error).__name__})."
        ) from error
    if architectures and not any(a.endswith("ForObjectDetection") for a in architectures):
        raise RecipeError(
            f"The folder {name!r} holds a {architectures[0]}, which is no object detector: give a DETR,"
            " Deformable DETR, RT-DETR or YOLOS."
        )

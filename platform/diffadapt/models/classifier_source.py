"""Where a recipe's classifier comes from and which revision it is. Knows no torch, so planning can ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffadapt.core.errors import DataError, UnfitError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.models import weights
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.timm_table import table

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")
UNREADABLE = (".npz", ".onnx", ".h5", ".pkl")
FORBIDDEN = (
    "model_name",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)
"""Arguments of timm.create_model that name other weights than the folder's own."""


@dataclass(frozen=True)
class ClassifierSource:
    """``place`` is a path, a hub id, or a timm model name, by ``kind``; ``train`` has no place."""

    kind: Literal["folder", "file", "hub", "timm", "train"]
    place: str = ""


def locate(config: ClassifierConfig) -> ClassifierSource:
    """Decide by the form of ``config.name``. Raises WeightsError for files that cannot be a checkpoint or do
    not exist."""
    name = config.name
    if name == "train":
        return ClassifierSource("train")
    if name.startswith("hf-hub:"):
        return ClassifierSource("hub", name.removeprefix("hf-hub:"))
    if name.startswith("embedded:"):
        return ClassifierSource("folder", weights.resolve(name))
    path = Path(name.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return ClassifierSource("folder", str(path.resolve()))
    suffix = path.suffix.lower()
    if suffix in UNREADABLE:
        raise (UnfitError if path.is_file() else WeightsError)(
            f"The classifier {name!r} is a {suffix} file, which is not read; give a .safetensors, .pt, .pth,"
            " .th or .ckpt checkpoint or a folder with config.json and model.safetensors."
        )
    if path.is_file():
        if suffix not in SUFFIXES:
            raise UnfitError(
                f"The classifier file {name!r} has none of the known endings {', '.join(SUFFIXES)}."
            )
        return ClassifierSource("file", weights.local_path(path))
    if "/" in name or (suffix in SUFFIXES and name not in table()[1]):  # there are tags called .pt
        raise WeightsError(
            f"There is no classifier at {name!r}: give a timm model name, an existing folder or checkpoint"
            " file, or hf-hub:org/name."
        )
    return ClassifierSource("timm", name)


def folder_config(folder: str) -> dict:
    """config.json of a timm-format folder. Raises WeightsError if it is missing or of another format."""
    file = Path(folder) / "config.json"
    try:
        values = parse(file.read_bytes())
    except FileNotFoundError:
        raise UnfitError(
            f"The classifier folder {folder!r} has no config.json; export one with timm or diffadapt."
        ) from None
    except ValueError as error:
        raise UnfitError(f"The file {str(file)!r} is not JSON ({error}).") from error
    if isinstance(values, dict) and str(values.get("model_type", "")).startswith("dinov2"):
        from diffadapt.models.importers.dinov2 import dinov2_facts

        return dinov2_facts(values)
    if not isinstance(values, dict) or "architecture" not in values:
        raise UnfitError(
            f"The folder {folder!r} is not a timm model (config.json has no 'architecture'); "
            "of Hugging Face transformers, DINOv2 is read."
        )
    args = values.get("model_args", {})
    if not isinstance(args, dict):
        raise UnfitError(f"The model_args in {str(file)!r} are no settings: export the model anew.")
    found = [k for k in FORBIDDEN if k in args] + ["backbone"] * (":" in str(args.get("backbone", "")))
    if found:
        raise UnfitError(
            f"The model_args in {str(file)!r} hold {found[0]!r}, which leads to files outside of the folder"
            " and is not trusted: remove it, or export the model anew with timm or diffadapt."
        )
    return values


def demand_classes(config: ClassifierConfig, has: int, wanted: int | None) -> None:
    """Raise DataError where a classifier of ``has`` classes is for data of ``wanted`` (None: of as many as
    ``config`` says, if it says so)."""
    wanted = config.num_classes if wanted is None else wanted
    if wanted is not None and has != wanted:
        raise DataError(
            f"The classifier {config.name!r} has {has} classes but the data have {wanted}: use"
            " weights trained on these classes, or name the classes in the classifier's order with"
            " data.classes."
        )


def classifier_revision(config: ClassifierConfig) -> str:
    """``sha256:...`` of local content, ``hub:<commit>``, or ``train`` for a model that the recipe trains.

    A timm name is looked up as the hub repository that timm publishes it in, ``timm/<name>``. Raises
    WeightsError.
    """
    source = locate(config)
    if source.kind == "train":
        return "train"
    if source.kind in ("folder", "file"):
        return weights.content_revision(source.place)
    return weights.revision(source.place if source.kind == "hub" else f"timm/{source.place}")

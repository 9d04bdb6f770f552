"""Where a segmentation network comes from and which revision it is, checked before anything is made. Knows no
torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError, UnfitError, WeightsError, suggest
from diffadapt.core.flops import Network
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.leniency import missing
from diffadapt.models import weights
from diffadapt.models.classifier_source import SUFFIXES, folder_config
from diffadapt.models.segmentation.config import SegmenterConfig

TIMM = "timm:"
FORMER = {"deeplabv3plus_2conv": "deeplabv3plus", "refinenet_2pool": "refinenet"}
"""Networks that digests and folders of format 1 know under another name: name today -> name there."""
CONVOLUTIONAL = (*FORMER.values(), *FORMER)
TORCHVISION = {"resnet50": "11ad3fa6", "resnet101": "cd907fc2"}
"""torchvision's ResNets and the hash in the file name of their ImageNet V2 weights."""
MIT: dict[str, dict[str, Any]] = {
    "nvidia/mit-b0": {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256]},
    "nvidia/mit-b1": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 320, 512]},
    "nvidia/mit-b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512]},
    "nvidia/mit-b3": {"depths": [3, 4, 18, 3], "hidden_sizes": [64, 128, 320, 512]},
    "nvidia/mit-b4": {"depths": [3, 8, 27, 3], "hidden_sizes": [64, 128, 320, 512]},
    "nvidia/mit-b5": {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512]},
}
"""The Mix Transformers of Xie et al. 2021, table 6; what they do not name is transformers' default."""
SMALLEST = 32
VIT_MODULES = ("vision_transformer", "eva", "deit")


def segmenter_identity(config: SegmenterConfig) -> dict[str, Any]:
    """Identity fields without paths: weights and architectures of files count by
    :func:`segmenter_revisions`."""
    fields = to_dict(config, identity_only=True) | {"dropout": config.dropped}
    if config.arch in FORMER.values():
        fields["arch"] = f"{config.arch}, as published"
    else:
        fields["arch"] = FORMER.get(config.arch, config.arch)
    if config.weights not in ("imagenet", "none"):
        fields["weights"] = "given"
    if _is_folder(config.backbone):
        fields["backbone"] = "given"
    return fields


def shell(config: SegmenterConfig, classes: int, size: tuple[int, int]) -> Network:
    """The network with random weights for inputs of ``size`` (height, width), for what counts it."""
    told = to_dict(
        replace(config, weights="none", size=SegmenterConfig().size, mean=None, std=None, batch_size=1)
    )  # type: ignore[arg-type]
    return Network.of(
        "diffadapt.models.shells:segmenter", config.arch, config=told, outputs=classes,
        height=size[0], width=size[1],
    )  # fmt: skip


def segmenter_revisions(config: SegmenterConfig) -> dict[str, str]:
    """The revision of the backbone's first weights and, where a folder decides it, of its architecture."""
    result: dict[str, str] = {}
    try:
        if config.arch == "segformer" and _is_folder(config.backbone):
            result["architecture"] = digest(segformer_config(config.backbone), 16)
        if config.weights not in ("imagenet", "none"):
            result["backbone"] = weights.content_revision(local_place(config))
        elif config.weights == "imagenet":
            result["backbone"] = _published_revision(config)
    except WeightsError as error:
        missing(error)
        result.setdefault("backbone", f"missing:{config.backbone}:{config.weights}")
    return result


def check_segmenter(config: SegmenterConfig) -> None:
    """Raise RecipeError or WeightsError for a network that cannot be made, as far as that shows before
    anything is made.

    Weights that are not at hand are noted when planning leniently. timm is imported only to look up a name of
    its own.
    """
    _check_numbers(config)
    if config.arch in CONVOLUTIONAL:
        _check_convolutional(config)
    elif config.arch == "segformer":
        _check_segformer(config)
    else:
        _check_vit(config)
    try:
        if config.weights not in ("imagenet", "none"):
            _check_file(config)
        elif config.weights == "imagenet" and config.backbone in TORCHVISION and config.arch in CONVOLUTIONAL:
            _check_cache(config.backbone)
    except WeightsError as error:
        missing(error)


def torchvision_file(name: str) -> tuple[str, Path]:
    """(address, place in torch.hub's cache) of torchvision's ImageNet V2 weights of resnet50 or resnet101."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    file = f"{name}-{TORCHVISION[name]}.pth"
    return (
        f"https://download.pytorch.org/models/{file}",
        Path(home).expanduser() / "hub" / "checkpoints" / file,
    )


def segformer_config(backbone: str) -> dict[str, Any]:
    """config.json of a transformers SegFormer folder, or the settings of a published Mix Transformer, decoder
    width included.

    Raises WeightsError for a folder of another kind, RecipeError for a hub id whose architecture only its
    repository knows.
    """
    if backbone in MIT:
        wide = backbone[-1] not in "01"
        return {
            **MIT[backbone],
            "num_attention_heads": [1, 2, 5, 8],
            "decoder_hidden_size": 768 if wide else 256,
        }
    if not _is_folder(backbone):
        raise RecipeError(
            f"The architecture of the SegFormer {backbone!r} is not known without its weights: take one of"
            f" {', '.join(MIT)}, or a folder.{suggest(backbone, MIT)}"
        )
    file = Path(backbone).expanduser() / "config.json"
    try:
        values = parse(file.read_bytes())
    except FileNotFoundError:
        raise WeightsError(
            f"The SegFormer folder {backbone!r} has no config.json: give a folder that transformers saved."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{str(file)!r} cannot be read ({type(error).__name__}: {error}): give a folder that transformers"
            " saved."
        ) from error
    if not isinstance(values, dict) or values.get("model_type") != "segformer":
        raise WeightsError(
            f"The folder {backbone!r} holds no SegFormer (config.json has no model_type 'segformer'): give"
            " one of transformers' SegFormers."
        )
    return values


def _check_numbers(config: SegmenterConfig) -> None:
    if min(config.size) < SMALLEST:
        raise RecipeError(
            f"segmenter.size is {config.size}, but the networks need at least {SMALLEST} pixels on either"
            " side."
        )
    wrong = any(v is not None and len(v) != 3 for v in (config.mean, config.std))
    if wrong or (config.std is not None and min(config.std) <= 0):
        raise RecipeError(
            f"segmenter.mean {config.mean} and segmenter.std {config.std} need three values each, those of"
            " std above 0."
        )


def _check_convolutional(config: SegmenterConfig) -> None:
    if config.backbone in TORCHVISION:
        return
    if config.backbone.startswith(TIMM):
        _check_timm(config, config.backbone.removeprefix(TIMM))
        return
    near = suggest(config.backbone, TORCHVISION)
    raise RecipeError(
        f"The backbone {config.backbone!r} is not one of arch {config.arch!r}: give {', '.join(TORCHVISION)},"
        f" or timm:<name> such as timm:mobilenetv2_100.{near}"
    )


def _check_segformer(config: SegmenterConfig) -> None:
    place = config.backbone
    if not _is_folder(place) and ("/" not in place or place.startswith(TIMM)):
        near = suggest(place if "/" in place else f"nvidia/{place}", MIT)
        raise RecipeError(
            f"The backbone {place!r} is no SegFormer: give a folder or a hub id such as nvidia/mit-b2.{near}"
        )
    if _is_folder(place) or config.weights == "none":
        try:
            segformer_config(place)
        except WeightsError as error:
            missing(error)


def _check_vit(config: SegmenterConfig) -> None:
    name = config.backbone.removeprefix(TIMM)
    _check_timm(config, name)
    import timm

    if not timm.models.is_model_in_modules(name, VIT_MODULES):
        raise RecipeError(
            f"The backbone {name!r} is no plain vision transformer, which arch 'linear' reads patches of:"
            " give one such as vit_base_patch14_dinov2.lvd142m."
        )


def _check_timm(config: SegmenterConfig, name: str) -> None:
    from diffadapt.models.classifier import demand_known, demand_published

    demand_known(name, RecipeError)
    if config.weights == "imagenet":
        demand_published(name)


def _check_file(config: SegmenterConfig) -> None:
    path = Path(local_place(config))
    if config.arch == "segformer":
        if not path.is_dir():
            raise WeightsError(
                f"The SegFormer weights {config.weights!r} are a file: give the folder that transformers"
                " saved."
            )
        segformer_config(str(path))
        return
    if path.is_dir():
        found, wanted = (
            folder_config(str(path))["architecture"],
            config.backbone.removeprefix(TIMM).split(".")[0],
        )
        if found != wanted:
            raise WeightsError(
                f"The folder {config.weights!r} holds a {found}, but the segmenter's backbone is {wanted}:"
                f" give segmenter.backbone {_as_backbone(config, found)}."
            )
    elif path.suffix.lower() not in SUFFIXES:
        raise UnfitError(
            f"The weights {config.weights!r} have none of the known endings {', '.join(SUFFIXES)}."
        )


def _as_backbone(config: SegmenterConfig, arch: str) -> str:
    return arch if arch in TORCHVISION or config.arch == "linear" else TIMM + arch


def _check_cache(name: str) -> None:
    url, file = torchvision_file(name)
    if (
        os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True", "ON", "on", "yes")
        and not file.is_file()
    ):
        raise WeightsError(
            f"torchvision's ImageNet weights of {name} are not at {str(file)!r} and HF_HUB_OFFLINE is set:"
            f" put {url} there, or give the file with segmenter.weights."
        )


def local_place(config: SegmenterConfig) -> str:
    """The existing path of ``config.weights``. Raises WeightsError."""
    if config.weights.startswith("embedded:"):
        return weights.resolve(config.weights)
    path = Path(config.weights).expanduser()
    if not path.exists():
        raise WeightsError(
            f"There are no weights at {config.weights!r}: segmenter.weights is 'imagenet', 'none', or an"
            " existing file or folder of the backbone's"
            f" weights.{suggest(config.weights, ('imagenet', 'none'))}"
        )
    return weights.local_path(path)


def _published_revision(config: SegmenterConfig) -> str:
    if config.arch in CONVOLUTIONAL and config.backbone in TORCHVISION:
        return f"torchvision:{config.backbone}-{TORCHVISION[config.backbone]}"
    if config.arch == "segformer":
        return weights.revision(config.backbone)
    return weights.revision(f"timm/{config.backbone.removeprefix(TIMM)}")


def _is_folder(place: str) -> bool:
    return not place.startswith(TIMM) and Path(place).expanduser().is_dir()

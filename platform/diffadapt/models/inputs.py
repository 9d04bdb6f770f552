"""The input that a model itself wants: its normalisation, size and interpolation, from timm's registry, a
folder's config.json or an image processor's preprocessor_config.json. Knows no torch unless timm must be
asked."""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from diffadapt.core.errors import WeightsError
from diffadapt.core.foreign import parse
from diffadapt.models.classifier_source import locate
from diffadapt.models.config import ClassifierConfig, CropMode, Interpolation
from diffadapt.models.timm_table import table

C = TypeVar("C", bound=ClassifierConfig)
RESAMPLE: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters, which image processors write."""


@dataclass(frozen=True)
class Inputs:
    """How an image becomes the input of some weights; the fields are those of ClassifierConfig.

    ``crop_pct`` is crop / resize, by which a crop of another size gets its resize."""

    crop: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"
    crop_mode: CropMode = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    height: int = 0
    """Of weights whose own input is ``height`` x ``crop``; 0: square, as every input here is."""

    def resize(self, crop: int) -> int:
        """The edge before a centre crop of ``crop`` pixels, as timm's evaluation transform takes it."""
        return math.floor(crop / self.crop_pct)


NOTHING_SAID = Inputs()
"""For networks that are trained here and checkpoints that say nothing of it: ImageNet's values, as
torchvision and the benchmarks have them."""


def with_inputs(config: C) -> C:
    """``config`` with the model's own values where it gives none. Weights that are not there have none; who
    loads them says so."""
    if None not in (
        config.crop,
        config.resize,
        config.interpolation,
        config.crop_mode,
        config.mean,
        config.std,
    ):
        return config
    known = own_inputs(config) or NOTHING_SAID
    crop = known.crop if config.crop is None else config.crop
    return replace(
        config,
        crop=crop,
        resize=known.resize(crop) if config.resize is None else config.resize,
        **{
            name: getattr(known, name)
            for name in ("interpolation", "crop_mode", "mean", "std")
            if getattr(config, name) is None
        },
    )


def differences(config: ClassifierConfig) -> str:
    """One sentence on what ``config`` gives otherwise than the model says of itself, '' for nothing. The
    evaluation view (crop_mode) is the recipe's and does not count."""
    known = own_inputs(config)
    if known is None:
        return ""
    config = with_inputs(config)
    own = known.resize(config.crop)
    if not config.resize and own == config.crop:  # no resize is written as crop_pct 1, the same at that size
        own = 0
    wanted = {
        "crop": known.crop, "resize": own, "interpolation": known.interpolation,
        "mean": known.mean, "std": known.std,
    }  # fmt: skip
    oblong = (
        [f"a square of {config.crop} (its own: {known.height} x {known.crop}, height x width)"]
        if known.height
        else []
    )
    return said_otherwise(config.name, config, wanted, oblong)


def said_otherwise(name: str, config: Any, wanted: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """One sentence on the fields of ``config`` that are not as the weights ``name`` want them, and ``more``
    of the kind; '' for none."""
    found = [
        f"{field} {_words(getattr(config, field))} (its own: {_words(value)})"
        for field, value in wanted.items()
        if not _same(getattr(config, field), value)
    ]
    if not (found or more):
        return ""
    return f"The recipe gives {name} another input than it was published with: {', '.join([*found, *more])}."


def share(crop: int, resize: int) -> float:
    """The crop_pct from which Inputs.resize makes ``resize`` again; 1 without a resize."""
    exact = crop / resize if resize else 1.0
    return exact if not resize or math.floor(crop / exact) == resize else crop / (resize + 0.5)


def own_inputs(config: ClassifierConfig) -> Inputs | None:
    """What is known of the input that the weights of ``config`` want; None: they say nothing, or are not at
    hand."""
    try:
        source = locate(config)
    except WeightsError:
        return None
    if source.kind == "train":
        return None
    if source.kind == "folder":
        return of_folder(source.place)
    if source.kind == "file":  # an architecture alone does not tell, but the tag of published weights does
        return of_timm(config.arch) if config.arch and "." in config.arch else None
    return of_timm(source.place) if source.kind == "timm" else _of_hub(source.place)


def of_folder(folder: str | Path) -> Inputs | None:
    """From config.json as timm writes it, else from preprocessor_config.json as transformers does."""
    values = _json(Path(folder) / "config.json")
    if isinstance(cfg := values.get("pretrained_cfg"), Mapping):
        return of_cfg(cfg)
    processor = _json(Path(folder) / "preprocessor_config.json")
    return of_processor(processor) if processor else None


def of_cfg(cfg: Mapping[str, Any]) -> Inputs:
    """From a pretrained_cfg: what timm.data.resolve_model_data_config makes of it."""
    default = NOTHING_SAID
    size = cfg.get("input_size") or (3, default.crop, default.crop)
    interpolation: Any = cfg.get("interpolation")
    mode: Any = cfg.get("crop_mode")
    return Inputs(
        int(size[-1]),
        float(cfg.get("crop_pct") or default.crop_pct),
        interpolation if interpolation in get_args(Interpolation) else default.interpolation,
        mode if mode in get_args(CropMode) else default.crop_mode,
        tuple(map(float, cfg.get("mean") or default.mean)),
        tuple(map(float, cfg.get("std") or default.std)),
        0 if size[-2] == size[-1] else int(size[-2]),
    )


def of_processor(values: Mapping[str, Any]) -> Inputs:
    """From the settings of a transformers image processor."""
    given, crop = values.get("size"), _side(values.get("crop_size"))
    side = _side(given) or crop or NOTHING_SAID.crop
    squashes = isinstance(given, Mapping) and "height" in given
    if not values.get("do_center_crop", crop is not None):
        crop = None
    resized = side if values.get("do_resize", True) else crop or side
    if percent := values.get("crop_pct"):
        if crop or side < 384:  # PoolFormer's and ConvNeXt's: the crop's side is called size
            resized = int(side / float(percent))
        else:
            squashes = True
    crop = crop or side
    factor = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if values.get("do_normalize", True):
        mean = tuple(values.get("image_mean") or NOTHING_SAID.mean)
        std = tuple(values.get("image_std") or NOTHING_SAID.std)
    number = values.get("resample")
    return Inputs(
        crop,
        share(crop, resized),
        RESAMPLE[number] if isinstance(number, int) and number in range(len(RESAMPLE)) else "bilinear",
        "squash" if squashes else "center",
        tuple(v / factor for v in mean),
        tuple(v / factor for v in std),
    )


def of_timm(name: str) -> Inputs | None:
    """From timm's registry; None for a name that it does not publish weights under."""
    version, known = table()
    if version == _installed() and name in known:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known[name].items()}
        return Inputs(**values)
    import timm

    import diffadapt.models.cifar_resnet  # noqa: F401  # registers ours

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None
    return None if cfg is None else of_cfg(cfg.to_dict())


def _of_hub(repo: str) -> Inputs | None:
    from huggingface_hub import hf_hub_download

    name, _, revision = repo.partition("@")
    for file, read in (("config.json", None), ("preprocessor_config.json", of_processor)):
        try:
            values = _json(Path(hf_hub_download(name, file, revision=revision or None)))
        except Exception:  # the client raises many unrelated types; whoever loads the weights says so
            continue
        if read:
            return read(values)
        if isinstance(cfg := values.get("pretrained_cfg"), Mapping):
            return of_cfg(cfg)
    return None


@functools.cache
def _installed() -> str:
    return importlib.metadata.version("timm")


def _json(file: Path) -> dict[str, Any]:
    try:
        values = parse(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _side(value: Any) -> int | None:
    """The side in a processor's size: a number, {height, width} or {shortest_edge}."""
    if isinstance(value, Mapping):
        value = value.get("height", value.get("shortest_edge", value.get("longest_edge")))
    return value if isinstance(value, int) else None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(abs(x - y) < 1e-3 for x, y in zip(a, b, strict=True))
    return a == b


def _words(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)

"""A fitted segmenter as a folder: segmenter.json, model.safetensors and a card. It is rebuilt without
downloads. Torch is imported when weights are written or read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffadapt.core.config import strict_precision, to_dict
from diffadapt.core.errors import DiffadaptError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.card import chosen, escape, flat, table
from diffadapt.models.folder import ModelFolder
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.source import FORMER

if TYPE_CHECKING:
    import torch

    from diffadapt.models.segmentation.network import SegmentationNetwork

TITLES = {
    "deeplabv3plus": "DeepLabv3+",
    "refinenet": "RefineNet",
    "deeplabv3plus_2conv": "DeepLabv3+ (two decoder convolutions)",
    "refinenet_2pool": "RefineNet (two poolings)",
    "segformer": "SegFormer",
    "linear": "Linear head",
}
LIMITATIONS = (
    "Trained for one pair of domains; what it does on images of another kind or from another camera was not"
    " measured.",
    "Where transferred images served for training, errors of the image generator (objects that moved,"
    " vanished or were invented) are learnt as labels.",
    "Confidence is not calibrated. Not for use where a wrong label can hurt someone.",
)
USE = """```python
from PIL import Image
from diffadapt.models.segmentation.folder import load_segmenter
from diffadapt.models.segmentation.inputs import segment
net, config, classes, _ = load_segmenter("this/folder")
labels = segment(net, config, [Image.open("street.png").convert("RGB")])[0]  # uint8 (height, width) of class numbers
```"""  # noqa: E501 - a line of the card


MARKER, FORMAT = "segmenter.json", 2


def _build(config: SegmenterConfig, classes: int, facts: Mapping[str, Any]) -> SegmentationNetwork:
    from diffadapt.models.segmentation.build import rebuild_segmenter

    return rebuild_segmenter(config, classes, facts)


FOLDER = ModelFolder(MARKER, SegmenterConfig, _build)


class Marker(NamedTuple):
    """``network``: the facts that the network is built from again; ``extra``: as :func:`save_segmenter` got
    it."""

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
        values = parse(file.read_bytes())
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
    if not isinstance(values, dict) or values.get("format") not in (1, FORMAT):
        raise WeightsError(
            f"The file {where!r} is not of format {FORMAT}, the one that this version writes, nor of format"
            " 1: read it with the version that wrote it."
        )
    try:
        if values["format"] == 1:
            values = {**values, "config": _renamed(values["config"])}
        network, extra = dict(values["network"]), dict(values.get("extra") or {})
        return Marker(*FOLDER.settings(values), network, extra, int(values["parameters"]))
    except (DiffadaptError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The file {where!r} describes no segmenter ({type(error).__name__}: {error}): it is damaged or"
            " of another version."
        ) from error


def _renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a folder of format 1, whose names of networks meant others than today."""
    today = {before: name for name, before in FORMER.items()}
    arch = config.get("arch", FORMER["deeplabv3plus_2conv"])
    return {**config, "arch": today.get(arch, arch)}


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
    extra = dict(extra or {})
    config = _without_paths(with_normalisation(config))
    count = sum(p.numel() for p in net.parameters())
    values = {
        "format": FORMAT,
        "config": to_dict(strict_precision(config)),
        "classes": to_dict(classes),
        "network": net.facts,
        "parameters": count,
        "extra": extra,
    }
    return FOLDER.write(folder, net.portable_state(), values, segmenter_card(config, classes, extra, count))


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
        net = FOLDER.build(config, len(classes.names), facts)
    except (DiffadaptError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The segmenter in {str(folder)!r} cannot be rebuilt ({type(error).__name__}: {error}):"
            " segmenter.json is damaged or of another version."
        ) from error
    net = FOLDER.fill(net, folder, _portable(str(folder)))
    from diffadapt.compute.compiling import channels_last

    channels_last(net, device)
    return net, config, classes, extra


def _portable(
    where: str,
) -> Callable[[SegmentationNetwork, dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]:
    """The network's own names for a stored state whose backbone has names of no library's version."""

    def fit(net: SegmentationNetwork, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not hasattr(net.backbone, "load_portable"):
            return state
        inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        net.backbone.load_portable(inner, where)
        own = {f"backbone.{k}": v for k, v in net.backbone.state_dict().items()}
        return {**own, **{k: v for k, v in state.items() if not k.startswith("backbone.")}}

    return fit


def _without_paths(config: SegmenterConfig) -> SegmenterConfig:
    """Given weights become 'none' (the folder's own replace them), a folder as backbone its name."""
    if config.weights not in ("imagenet", "none"):
        config = replace(config, weights="none")
    place = Path(config.backbone).expanduser()
    return replace(config, backbone=place.resolve().name) if place.is_dir() else config


def segmenter_card(
    config: SegmenterConfig, classes: ClassTable, extra: Mapping[str, Any], parameters: int
) -> str:
    """Markdown with front matter; every string of the user's is escaped. ``extra`` as in
    :func:`save_segmenter`."""
    extra = dict(extra)
    selection, metrics, data = (extra.pop(n, None) for n in ("selection", "metrics", "data"))
    limitations = extra.pop("limitations", None) or LIMITATIONS
    title = f"{TITLES[config.arch]} on {config.backbone}, {len(classes.names)} classes"
    lines = ["---", "pipeline_tag: image-segmentation", "tags:", "- image-segmentation"]
    lines += [
        "- semantic-segmentation",
        "- diffadapt",
        "---",
        f"# {escape(title)}",
        "",
        "Made with diffadapt.",
    ]
    purpose = "Labels of the pixels of street scenes, for research on domains without training images."
    lines += ["", "## Use", "", purpose, "", USE]
    if config.void_channel:
        void = "stands for void: the network has one output more than classes, which training never rewards."
        lines += ["", f"Number {len(classes.names)} {void}"]
    rows = [
        ("Size (height, width)", " x ".join(map(str, config.size))),
        ("Mean", ", ".join(map(str, config.mean))),
        ("Standard deviation", ", ".join(map(str, config.std))),
        ("Parameters", f"{parameters:,}"),
    ]
    lines += ["", "## Input", "", *table(rows), *chosen(selection)]
    if data:
        lines += ["", "## Data", "", escape(data)]
    if metrics:
        lines += ["", "## Results", "", *table(_rounded(metrics))]
    lines += ["", "## Classes", "", "| Number | Name | Colour |", "| --- | --- | --- |"]
    lines += [
        f"| {i} | {escape(name)} | {' '.join(map(str, colour))} |"
        for i, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
    ]
    lines += ["", "## Limitations", "", *(f"- {escape(text)}" for text in limitations)]
    if extra:
        lines += ["", "## How it was made", "", *table(_rounded(extra))]
    return "\n".join(lines) + "\n"


def _rounded(values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    return ((k, f"{v:.4g}" if isinstance(v, float) else v) for k, v in flat(values))

"""The README.md of a segmenter's folder: what it is, how it was made, how to use it, where it fails. No
torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.card import escape
from diffadapt.models.segmentation.config import SegmenterConfig

TITLES = {
    "deeplabv3plus": "DeepLabv3+",
    "refinenet": "RefineNet",
    "segformer": "SegFormer",
    "linear": "Linear head",
}
LIMITATIONS = (
    (
        "Trained for one pair of domains; what it does on images of another kind or from another camera was"
        " not measured."
    ),
    (
        "Where transferred images served for training, errors of the image generator (objects that moved,"
        " vanished or were invented) are learnt as labels."
    ),
    "Confidence is not calibrated. Not for use where a wrong label can hurt someone.",
)
USE = """```python
from PIL import Image
from diffadapt.models.segmentation.folder import load_segmenter
from diffadapt.models.segmentation.inputs import segment
net, config, classes, _ = load_segmenter("this/folder")
labels = segment(net, config, [Image.open("street.png").convert("RGB")])[0]  # uint8 (height, width) of class numbers
```"""


def segmenter_card(
    config: SegmenterConfig, classes: ClassTable, extra: Mapping[str, Any], parameters: int
) -> str:
    """Markdown with front matter; every string of the user's is escaped. ``extra`` as in
    models/segmentation/folder.py."""
    extra = dict(extra)
    selection, metrics, data = (extra.pop(n, None) for n in ("selection", "metrics", "data"))
    limitations = extra.pop("limitations", None) or LIMITATIONS
    title = f"{TITLES[config.arch]} on {config.backbone}, {len(classes.names)} classes"
    lines = [
        "---",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- image-segmentation",
        "- semantic-segmentation",
        "- diffadapt",
        "---",
        f"# {escape(title)}",
        "",
        "Made with diffadapt.",
    ]
    lines += [
        "",
        "## Use",
        "",
        "Labels of the pixels of street scenes, for research on domains without training images.",
        "",
        USE,
    ]
    if config.void_channel:
        lines += [
            "",
            (
                f"Number {len(classes.names)} stands for void: the network has one output more than classes,"
                " which training never rewards."
            ),
        ]
    lines += [
        "",
        "## Input",
        "",
        *_table(
            [
                ("Size (height, width)", " x ".join(map(str, config.size))),
                ("Mean", ", ".join(map(str, config.mean))),
                ("Standard deviation", ", ".join(map(str, config.std))),
                ("Parameters", f"{parameters:,}"),
            ]
        ),
    ]
    if selection == "oracle":
        lines += [
            "",
            (
                "**Oracle: the epoch was chosen on labels of the target. Its scores are an upper bound, not a"
                " result.**"
            ),
        ]
    elif selection and selection != "last":
        lines += ["", f"The epoch was chosen without target labels, by {escape(selection)}."]
    if data:
        lines += ["", "## Data", "", escape(data)]
    if metrics:
        lines += ["", "## Results", "", *_table(list(_flat(metrics)))]
    lines += ["", "## Classes", "", "| Number | Name | Colour |", "| --- | --- | --- |"]
    lines += [
        f"| {i} | {escape(name)} | {' '.join(map(str, colour))} |"
        for i, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
    ]
    lines += ["", "## Limitations", "", *(f"- {escape(text)}" for text in limitations)]
    if extra:
        lines += ["", "## How it was made", "", *_table(list(_flat(extra)))]
    return "\n".join(lines) + "\n"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else value


def _table(rows: list[tuple[str, object]]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {escape(k)} | {escape(v)} |" for k, v in rows)]

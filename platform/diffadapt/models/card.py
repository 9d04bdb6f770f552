"""The README.md of an exported classifier: what it is, how it was made, what it scored, where it fails. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.models.config import ClassifierConfig

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")
_SHOWN = 20

LIMITATIONS = (
    "Trained or adapted for one target domain; accuracy elsewhere was not measured.",
    "Synthetic training images come from a generator and carry its biases.",
    "Confidence is not calibrated.",
)


def escape(text: object) -> str:
    """``text`` as one line of Markdown that renders literally, safe inside a table cell."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def classifier_card(
    *,
    arch: str,
    config: ClassifierConfig,
    class_names: Sequence[str],
    metrics: Mapping[str, float] | None = None,
    data: str = "",
    recipe: str = "",
    recipe_digest: str = "",
    limitations: Sequence[str] = LIMITATIONS,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with Hugging Face front matter. Every string of the user's is escaped; metrics are in percent or as named."""
    lines = ["---", "library_name: timm", "pipeline_tag: image-classification", "tags:", "- image-classification", "- timm", "---"]
    lines += [f"# {escape(arch)}, {len(class_names)} classes", "", "Made with diffadapt.", ""]
    if recipe or recipe_digest:
        lines += [f"Recipe: {escape(recipe or 'unnamed')} (digest `{re.sub(r'[^0-9A-Za-z:.-]', '', recipe_digest)}`).", ""]
    lines += ["## Input", "", *_table(("", ""), _input_rows(config))]
    if data:
        lines += ["", "## Data", "", escape(data)]
    lines += ["", "## Results", ""]
    lines += _table(("Metric", "Value"), [(k, f"{v:.4g}") for k, v in metrics.items()]) if metrics else ["No score was recorded."]
    lines += ["", "## Classes", "", ", ".join(escape(name) for name in class_names[:_SHOWN])]
    if len(class_names) > _SHOWN:
        lines[-1] += f", and {len(class_names) - _SHOWN} more (see config.json)"
    lines += ["", "## Limitations", "", *(f"- {escape(text)}" for text in limitations)]
    if extra:
        lines += ["", "## Further facts", "", *_table(("Name", "Value"), list(extra.items()))]
    if arch.startswith("cifar_resnet"):
        lines += ["", "The architecture is registered by `import diffadapt.models.cifar_resnet`."]
    return "\n".join(lines) + "\n"


def _input_rows(config: ClassifierConfig) -> list[tuple[str, object]]:
    resize = f"short edge to {config.resize} (bicubic), centre crop {config.crop}" if config.resize else f"{config.crop} pixels as they are"
    return [
        ("Channels", config.in_channels),
        ("Size", resize),
        ("Mean", ", ".join(map(str, config.mean))),
        ("Standard deviation", ", ".join(map(str, config.std))),
    ]


def _table(header: tuple[str, str], rows: Sequence[tuple[str, object]]) -> list[str]:
    return [f"| {header[0]} | {header[1]} |", "| --- | --- |", *(f"| {escape(k)} | {escape(v)} |" for k, v in rows)]

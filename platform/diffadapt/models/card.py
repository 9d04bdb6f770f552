"""The README.md of an exported classifier: what it is, how it was made, what it scored, where it fails. No
torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
    selection: str = "last",
    generator: str = "",
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with Hugging Face front matter. Every string of the user's is escaped; metrics are in percent
    or as named.

    ``selection`` is how the epoch was chosen ('oracle': on target labels, which the card says in bold);
    ``generator`` what made the synthetic training images.
    """
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- timm",
        "---",
    ]
    lines += [f"# {escape(arch)}, {len(class_names)} classes", "", "Made with diffadapt.", ""]
    if recipe or recipe_digest:
        lines += [
            (
                f"Recipe: {escape(recipe or 'unnamed')} (digest"
                f" `{re.sub(r'[^0-9A-Za-z:.-]', '', recipe_digest)}`)."
            ),
            "",
        ]
    lines += ["## Input", "", *_table(("", ""), _input_rows(config))]
    if selection == "oracle":
        lines += [
            "",
            (
                "**Oracle: the epoch was chosen on labels of the target. Its scores are an upper bound, not a"
                " result.**"
            ),
        ]
    elif selection != "last":
        lines += ["", f"The epoch was chosen without target labels, by {escape(selection)}."]
    if generator:
        data = " ".join(
            text for text in (data, f"Synthetic training images were made by {generator}.") if text
        )
    if data:
        lines += ["", "## Data", "", escape(data)]
    lines += ["", "## Results", ""]
    lines += (
        _table(("Metric", "Value"), [(k, f"{v:.4g}") for k, v in metrics.items()])
        if metrics
        else ["No score was recorded."]
    )
    lines += ["", "## Classes", "", ", ".join(escape(name) for name in class_names[:_SHOWN])]
    if len(class_names) > _SHOWN:
        lines[-1] += f", and {len(class_names) - _SHOWN} more (see config.json)"
    lines += ["", "## Limitations", "", *(f"- {escape(text)}" for text in limitations)]
    if extra:
        lines += ["", "## Further facts", "", *_table(("Name", "Value"), list(_flat(extra)))]
    if arch.startswith("cifar_resnet") or arch == "mlp_head":
        module = "mlp_head" if arch == "mlp_head" else "cifar_resnet"
        lines += ["", f"The architecture is registered by `import diffadapt.models.{module}`."]
    return "\n".join(lines) + "\n"


def _input_rows(config: ClassifierConfig) -> list[tuple[str, object]]:
    resize = (
        f"short edge to {config.resize} (bicubic), centre crop {config.crop}"
        if config.resize
        else f"{config.crop} pixels as they are"
    )
    return [
        ("Channels", config.in_channels),
        ("Size", resize),
        ("Mean", ", ".join(map(str, config.mean))),
        ("Standard deviation", ", ".join(map(str, config.std))),
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested settings as ('training: lr', value)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def _table(header: tuple[str, str], rows: Sequence[tuple[str, object]]) -> list[str]:
    return [
        f"| {header[0]} | {header[1]} |",
        "| --- | --- |",
        *(f"| {escape(k)} | {escape(v)} |" for k, v in rows),
    ]

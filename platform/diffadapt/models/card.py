"""The README.md of an exported classifier: what it is, how it was made, what it scored, where it fails. No
torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from diffadapt.core.redact import redact
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")
_SHOWN = 20

LIMITATIONS = (
    "Trained or adapted for one target domain; accuracy elsewhere was not measured.",
    "Synthetic training images come from a generator and carry its biases.",
    "Confidence is not calibrated.",
)


def escape(text: object) -> str:
    """``text`` as one line of Markdown that renders literally, safe inside a table cell."""
    return _SPECIAL.sub(r"\\\1", " ".join(redact(str(text)).split()))


def classifier_card(
    arch: str, config: ClassifierConfig, class_names: Sequence[str], extra: Mapping[str, Any] | None = None
) -> str:
    """Markdown with Hugging Face front matter. Every string of the user's is escaped; metrics are in percent
    or as named.

    ``extra``: ``metrics``, ``data``, ``recipe``, ``recipe_digest``, ``limitations``, ``selection`` (how the
    epoch was chosen; 'oracle': on target labels, which the card says in bold), ``generator`` (what made the
    synthetic training images); other names are listed.
    """
    extra = dict(extra or {})
    metrics, limitations = extra.pop("metrics", None), extra.pop("limitations", LIMITATIONS)
    data, generator, recipe, recipe_digest = (
        extra.pop(name, "") for name in ("data", "generator", "recipe", "recipe_digest")
    )
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
        known = re.sub(r"[^0-9A-Za-z:.-]", "", recipe_digest)
        lines += [f"Recipe: {escape(recipe or 'unnamed')} (digest `{known}`).", ""]
    lines += ["## Input", "", *table(_input_rows(config), "|  |  |"), *chosen(extra.pop("selection", "last"))]
    if generator:
        data = " ".join(
            text for text in (data, f"Synthetic training images were made by {generator}.") if text
        )
    if data:
        lines += ["", "## Data", "", escape(data)]
    lines += ["", "## Results", ""]
    lines += (
        table([(k, f"{v:.4g}") for k, v in metrics.items()], "| Metric | Value |")
        if metrics
        else ["No score was recorded."]
    )
    lines += ["", "## Classes", "", ", ".join(escape(name) for name in class_names[:_SHOWN])]
    if len(class_names) > _SHOWN:
        lines[-1] += f", and {len(class_names) - _SHOWN} more (see config.json)"
    lines += ["", "## Limitations", "", *(f"- {escape(text)}" for text in limitations)]
    if extra:
        lines += ["", "## Further facts", "", *table(flat(extra), "| Name | Value |")]
    if arch.startswith("cifar_resnet") or arch == "mlp_head":
        module = "mlp_head" if arch == "mlp_head" else "cifar_resnet"
        lines += ["", f"The architecture is registered by `import diffadapt.models.{module}`."]
    return "\n".join(lines) + "\n"


def _input_rows(config: ClassifierConfig) -> list[tuple[str, object]]:
    config = with_inputs(config)
    edge = {"center": "short edge", "squash": "both edges", "border": "long edge"}[config.crop_mode]
    resize = (
        f"{edge} to {config.resize} ({config.interpolation}), centre crop {config.crop}"
        if config.resize
        else f"{config.crop} pixels as they are"
    )
    return [
        ("Channels", config.in_channels),
        ("Size", resize),
        ("Mean", ", ".join(map(str, config.mean))),
        ("Standard deviation", ", ".join(map(str, config.std))),
    ]


def chosen(selection: str) -> list[str]:
    """The paragraph that says how the epoch was chosen; none for the last one."""
    if selection == "oracle":
        bound = "Its scores are an upper bound, not a result."
        return ["", f"**Oracle: the epoch was chosen on labels of the target. {bound}**"]
    if selection and selection != "last":
        return ["", f"The epoch was chosen without target labels, by {escape(selection)}."]
    return []


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested settings as ('training: lr', value)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def table(rows: Iterable[tuple[str, object]], header: str = "| | |") -> list[str]:
    """Lines of a Markdown table of two columns."""
    return [header, "| --- | --- |", *(f"| {escape(k)} | {escape(v)} |" for k, v in rows)]

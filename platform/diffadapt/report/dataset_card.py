"""The README.md of images that are pushed to the Hugging Face Hub: front matter that its viewer reads, what
they are, who made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.redact import redact
from diffadapt.report.licences import licence_section

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(
    run: str, manifest: Mapping[str, Any], what: str, count: int, labelled: bool, names: Sequence[str]
) -> str:
    """Markdown of ``count`` images of the stage ``what`` in class folders (``labelled``) or in one folder
    with ``metadata.csv``; the features are those that ``datasets.load_dataset`` finds in them."""
    size = next((text for most, text in SIZES if count < most), "1M<n<10M")
    head = ["---", "task_categories:", "- image-classification", "tags:", "- synthetic", "- diffadapt"]
    head += ["size_categories:", f"- {size}", "dataset_info:", "  features:"]
    head += ["  - name: image", "    dtype: image"]
    if labelled:
        head += ["  - name: label", "    dtype:", "      class_label:", "        names:"]
        head += [f"          '{i}': {json.dumps(str(name))}" for i, name in enumerate(names)]
    head += [
        "  splits:",
        "  - name: train",
        f"    num_examples: {count}",
        "configs:",
        "- config_name: default",
    ]
    head += ["  data_files:", "  - split: train", '    path: "data/**"', "---"]
    recipe = redact(str(manifest.get("recipe", "")))
    about = "Made with diffadapt: what a generator drew, and for aligned images a diffusion model changed."
    body = [
        f"# {what} of {redact(run)}", "", about, "",
        "|  |  |", "| --- | --- |", f"| Images | {count:,} |", f"| Classes | {len(names)} |",
        f"| Recipe | `{recipe}` |", f"| Run | `{redact(run)}` |", f"| Seed | {manifest.get('seed', '')} |",
    ]  # fmt: skip
    body += [
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'images = load_dataset("<this name>", split="train")',
    ]
    return "\n".join([*head, *body, "```", *licence_section(manifest, "these images")]) + "\n"

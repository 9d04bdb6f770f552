"""Prompts of a class from a template, the bank, a language model or the user's own file (Adapt Anything
section 3): the source that the settings name, and what is read from the rows afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.prompts.config import PromptConfig
from diffadapt.prompts.sources.base import SOURCES, PromptSource
from diffadapt.prompts.text import FALLBACK


def source_of(config: PromptConfig, domain: str = "", seed: int = 0) -> PromptSource:
    """The source that ``config.source`` names."""
    return SOURCES.load(config.source)(config, domain, seed)


def prompt_count(config: PromptConfig) -> int:
    """P, the prompts that each class has: one from a template, else ``prompts_per_class``."""
    return source_of(config).count


def make_prompts(
    config: PromptConfig, category: str, domain: str, start: int, stop: int, seed: int
) -> list[str]:
    """Prompts ``start`` to ``stop`` (exclusive) of a class, from a template, the bank or a file.

    ``category`` is the class's name as listed; underscores become spaces. ``domain`` describes the target
    ("webcam photos of office objects") and may be empty. Raises RecipeError for settings that cannot give
    these prompts, DataError for a file that has none for the class. Of a language model these are the bank's
    that stand in for it.
    """
    return source_of(config, domain, seed).prompts(category, start, stop)


def check_prompts(config: PromptConfig, class_names: Sequence[str], domain: str) -> None:
    """Everything about the settings that can be known before a prompt is made. Raises RecipeError or
    DataError."""
    if config.prompts_per_class < 1 or config.block < 1:
        raise RecipeError("prompts.prompts_per_class and prompts.block must be at least 1.")
    source_of(config, domain).check(class_names)


def prompt_table(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, str, str]]:
    """Rows of the prompts' shards as (class, index, prompt, source), by label and index: what a report
    shows."""
    ordered = sorted(rows, key=lambda r: (r["label"], r["index"]))
    return [(r["category"], r["index"], r["prompt"], r["source"]) for r in ordered]


def prompt_warnings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence for each reason why the bank stood in for a language model; empty when it never did."""
    counts: dict[str, list[int]] = {}
    total = 0
    for row in rows:
        total += 1
        if row["source"].startswith(FALLBACK):
            counts.setdefault(row["source"][len(FALLBACK) : -1], []).append(row["label"])
    return [
        f"{len(labels)} of {total} prompts ({len(set(labels))} classes) are the bank's, because the language"
        f" model failed: {reason}; to ask it again, delete its folder under prompts/ in the store (`diffadapt"
        " cache ls`) and run the same command."
        for reason, labels in counts.items()
    ]

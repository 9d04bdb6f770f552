"""Prompts of a class from a template, the bank, a language model or the user's own file (Adapt Anything
section 3).

Every source is prefix-stable: the k-th prompt of a class depends neither on how many are asked for nor on
other classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.data.class_names import spoken
from diffadapt.prompts.bank import BANK_VERSION, bank
from diffadapt.prompts.config import PromptConfig
from diffadapt.prompts.file import file_prompts

FALLBACK = "bank (llm failed: "
"""How the ``source`` of a prompt begins that the bank wrote because the language model did not."""


def prompt_count(config: PromptConfig) -> int:
    """P, the prompts that each class has: one from a template, else ``prompts_per_class``."""
    return 1 if config.source == "template" else config.prompts_per_class


def prompt_index(i: int, prompts_per_class: int) -> int:
    """Which prompt the i-th image of a class is made from: i mod P (P of :func:`prompt_count`)."""
    return i % prompts_per_class


def prompt_key(label: int, index: int) -> str:
    """The key of a prompt's row, such as 'c0003/p000012'."""
    return f"c{label:04d}/p{index:06d}"


def make_prompts(
    config: PromptConfig, category: str, domain: str, start: int, stop: int, seed: int
) -> list[str]:
    """Prompts ``start`` to ``stop`` (exclusive) of a class, from a template, the bank or a file.

    ``category`` is the class's name as listed; underscores become spaces. ``domain`` describes the target
    ("webcam photos of office objects") and may be empty. Raises RecipeError for settings that cannot give
    these prompts, DataError for a file that has none for the class. Prompts of a language model come from
    prompts/llm.py.
    """
    if config.source == "template":
        return [fill(config.template, category, domain)] * (stop - start)
    if config.source == "file":
        mine = file_prompts(config.file, category)
        return [fill(mine[k % len(mine)], category, domain) for k in range(start, stop)]
    phrases = bank(config, domain)
    if stop > phrases.size:
        raise RecipeError(_too_many(stop, phrases.size))
    return [phrases.prompt(k, spoken(category), seed) for k in range(start, stop)]


def fill(text: str, category: str, domain: str) -> str:
    """``text`` with {category} and {domain} replaced; nothing else in it changes."""
    return text.replace("{category}", spoken(category)).replace("{domain}", " ".join(domain.split()))


def check_prompts(config: PromptConfig, class_names: Iterable[str], domain: str) -> None:
    """Everything about the settings that can be known before a prompt is made. Raises RecipeError or
    DataError."""
    if config.prompts_per_class < 1 or config.block < 1:
        raise RecipeError("prompts.prompts_per_class and prompts.block must be at least 1.")
    if config.source == "template":
        if "{category}" not in config.template:
            raise RecipeError(
                f"prompts.template is {config.template!r}, which names no class: write {{category}} where the"
                " class's name belongs."
            )
    elif config.source == "file":
        if not config.file:
            raise RecipeError(
                "prompts.source is 'file' but prompts.file is empty: give a CSV (category,prompt), a JSON or"
                " a text file."
            )
        for name in class_names:
            file_prompts(config.file, name, tuple(class_names))
    else:
        size = bank(config, domain).size
        if config.prompts_per_class > size:
            raise RecipeError(_too_many(config.prompts_per_class, size))
        if config.source == "llm":
            _check_llm(config)


def prompt_identity(config: PromptConfig, domain: str, seed: int) -> dict[str, Any]:
    """What of the settings decides the prompts of any class; ``prompts_per_class`` never does, nor does a
    file's path."""
    if config.source == "template":
        return {
            "source": "template",
            "template": config.template,
            **_said("{domain}" in config.template, domain),
        }
    if config.source == "file":
        return {"source": "file"}  # the prompts themselves are in the shards' parameters
    known: dict[str, Any] = {
        "source": config.source,
        "bank": digest(_lists(config, domain)),
        "domain": domain,
        "seed": seed,
    }
    if config.source == "llm":
        from diffadapt.prompts.llm import TEXT_VERSION, public_endpoint

        llm = to_dict(config.llm, identity_only=True)
        llm["endpoint"] = public_endpoint(config.llm.endpoint)
        if config.llm.backend == "transformers":
            llm.pop("model")  # counts by its revision
            llm.pop("endpoint")
        known |= {"llm": llm, "text": TEXT_VERSION, "block": config.block}
    return known


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


def _lists(config: PromptConfig, domain: str) -> dict[str, Any]:
    """The bank's lists as they will be used."""
    return {"version": BANK_VERSION, **to_dict(bank(config, domain))}


def _said(mentioned: bool, domain: str) -> dict[str, str]:
    return {"domain": domain} if mentioned else {}


def _too_many(wanted: int, size: int) -> str:
    return (
        f"prompts.prompts_per_class is {wanted}, but the lists of the prompt bank make {size} different"
        f" prompts a class: ask for at most {size} (several images may share a prompt), or give longer lists"
        " of styles, backgrounds, viewpoints or lights."
    )


def _check_llm(config: PromptConfig) -> None:
    llm = config.llm
    if llm.ask < 1 or llm.temperature < 0 or llm.retries < 0 or llm.timeout <= 0:
        raise RecipeError(
            "prompts.llm: ask must be at least 1, temperature and retries not negative, timeout positive."
        )
    if not llm.model:
        raise RecipeError("prompts.llm.model is empty: name the language model.")
    if llm.backend == "openai" or llm.endpoint:
        if not llm.endpoint:
            raise RecipeError(
                "prompts.llm.endpoint is empty: give the URL of an OpenAI-compatible endpoint up to /v1, such"
                " as http://localhost:8000/v1."
            )
        if not llm.endpoint.startswith(("http://", "https://")):
            raise RecipeError(
                f"prompts.llm.endpoint is {llm.endpoint!r}, which is not a URL: it begins with http:// or"
                " https://."
            )

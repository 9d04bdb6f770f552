"""What every prompt source shares: keys, which image is made from which prompt, and what a text may name."""

from __future__ import annotations

from diffadapt.data.class_names import spoken

FALLBACK = "bank (llm failed: "
"""How the ``source`` of a prompt begins that the bank wrote because the language model did not."""


def prompt_index(i: int, prompts_per_class: int) -> int:
    """Which prompt the i-th image of a class is made from: i mod P (P of :func:`prompt_count`)."""
    return i % prompts_per_class


def prompt_key(label: int, index: int) -> str:
    """The key of a prompt's row, such as 'c0003/p000012'."""
    return f"c{label:04d}/p{index:06d}"


def fill(text: str, category: str, domain: str) -> str:
    """``text`` with {category} and {domain} replaced; nothing else in it changes."""
    return text.replace("{category}", spoken(category)).replace("{domain}", " ".join(domain.split()))

"""What a source of prompts is; every source is one file of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffadapt.core.discover import Seam


class PromptSource:
    """Base of all sources. ``config`` is the PromptConfig, ``domain`` describes the target ("webcam photos of
    office objects") and may be empty.

    Every source is prefix-stable: the k-th prompt of a class depends neither on how many are asked for nor
    on other classes.
    """

    by_content: ClassVar[bool] = False
    """Whether the prompts themselves are part of a shard's digest, because settings do not decide them."""

    def __init__(self, config: Any, domain: str = "", seed: int = 0):
        self.config, self.domain, self.seed = config, domain, seed

    @property
    def count(self) -> int:
        """P, the prompts that each class has."""
        return self.config.prompts_per_class

    @property
    def label(self) -> str:
        """The readable name of the shards' folder."""
        return self.config.source

    @property
    def weights(self) -> str:
        """Weights that the worker's process loads, which then wants a GPU; empty: none."""
        return ""

    def check(self, class_names: Sequence[str]) -> None:
        """Everything that can be known before a prompt is made. Raises RecipeError or DataError."""

    def identity(self) -> dict[str, Any]:
        """What of the settings decides the prompts of any class: never how many, never a path."""
        raise NotImplementedError

    def prompts(self, category: str, start: int, stop: int) -> list[str]:
        """Prompts ``start`` to ``stop`` (exclusive) of the class that is listed as ``category``."""
        raise NotImplementedError

    def open(self, device: str) -> None:
        """Make ready to write, in the worker's process."""

    def write(self, names: Sequence[str], start: int, stop: int) -> list[list[tuple[str, str]]]:
        """For each class the prompts as (prompt, what the row's ``source`` says)."""
        return [[(p, self.config.source) for p in self.prompts(name, start, stop)] for name in names]


SOURCES = Seam(
    "prompt source", "diffadapt.prompts.sources", "DIFFADAPT_PROMPTS", PromptSource, folder="sources"
)
"""Every source by the value of ``prompts.source``."""

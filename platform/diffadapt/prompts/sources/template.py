"""One sentence a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.prompts.sources.base import PromptSource
from diffadapt.prompts.text import fill


class Template(PromptSource):
    """``prompts.template`` with the class's name; every class has this one prompt."""

    @property
    def count(self) -> int:
        return 1

    def check(self, class_names: Sequence[str]) -> None:
        if "{category}" not in self.config.template:
            raise RecipeError(
                f"prompts.template is {self.config.template!r}, which names no class: write {{category}}"
                " where the class's name belongs."
            )

    def identity(self) -> dict[str, Any]:
        template = self.config.template
        said = {"domain": self.domain} if "{domain}" in template else {}
        return {"source": "template", "template": template, **said}

    def prompts(self, category: str, start: int, stop: int) -> list[str]:
        return [fill(self.config.template, category, self.domain)] * (stop - start)

"""Training of the small layout-conditional generator that is shipped, as a recipe type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.ranges import Positive, Seed
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.scenes import Scenes
from diffadapt.worlds.streets.conditions import CONDITIONS
from diffadapt.worlds.streets.config import LayoutFitConfig
from diffadapt.worlds.streets.fit import FitLayout

CAPTIONS = {
    "day": "driving in the daytime",
    "night": "driving at night",
    "fog": "driving in fog",
    "snow": "driving in snow",
    "rain": "driving under rain",
    "dusk": "driving at dusk",
}
"""The prompts that ZoDi's transfer uses (diffusion/translation/config.py)."""


@dataclass(frozen=True)
class Streets:
    """``diffadapt export`` copies ``generator`` (a StableDiffusionControlNetPipeline folder) out of the
    store."""

    conditions: tuple[str, ...] = CONDITIONS
    scenes: Positive = 1024
    """Of each condition."""
    layout: LayoutFitConfig = LayoutFitConfig(flip=False)
    seed: Seed = 0
    execution: ExecutionConfig = ExecutionConfig()

    aliases: ClassVar[dict[str, tuple[str, ...]]] = {"seed": ("seed", "layout.seed", "layout.vae.seed")}

    def pipeline(self) -> Pipeline:
        """A node of scenes for each condition, all of the generator's own world; generator from them."""
        for name in self.conditions:
            if name not in CAPTIONS:
                raise RecipeError(
                    f"Streets have no condition {name!r}: give some of"
                    f" {', '.join(CAPTIONS)}.{suggest(name, CAPTIONS)}"
                )
        sets = [
            Node(
                f"{c}_scenes",
                Scenes(
                    SceneConfig(
                        "embedded:streets", layout="streets", split="pretrain", condition=c, limit=self.scenes
                    ),
                    c,
                ),
            )
            for c in self.conditions
        ]
        fit = FitLayout(self.layout, builtin("streets"), tuple(CAPTIONS[c] for c in self.conditions))
        nodes = (*sets, Node("generator", fit, tuple(node.name for node in sets)))
        return Pipeline(nodes, (), (), {node.name: node.name for node in nodes})

"""Find and load recipes: Python functions under pipelines/ that return a recipe value.

``pipelines/sda/imagenet_c.py`` with functions ``resnet50`` and ``swin_t`` gives the recipes
``sda/imagenet_c/resnet50`` and ``sda/imagenet_c/swin_t``; a function called ``recipe`` gives the file's own
name. The checkout's folder is preferred to the one installed with the package; DIFFADAPT_PIPELINES names
another.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from diffadapt.core import functions
from diffadapt.core.config import override
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.foreign import LARGEST, parse
from diffadapt.core.functions import Entry
from diffadapt.core.location import open_place
from diffadapt.core.redact import redact


def folders() -> list[Path]:
    """Where recipes are looked for, best first."""
    return functions.folders("DIFFADAPT_PIPELINES", "pipelines")


def recipes() -> dict[str, Entry]:
    """Every recipe by name."""
    return functions.find(folders(), "recipe")


def load(name: str) -> Any:
    """The recipe value called ``name``, or that of a JSON file with a recipe's name and overrides, such as a
    sweep's recommended.json or a run's recipe.json (a path or URL); RecipeError with the nearest name
    otherwise."""
    if name.endswith(".json"):
        base, overrides = read_file(name)
        return override(load(base), overrides)
    entries = recipes()
    if name not in entries:
        inside = [n for n in entries if n.startswith(name.rstrip("/") + "/")]
        if inside:
            raise RecipeError(f"{name!r} holds several recipes: {', '.join(inside[:8])}; give one of them.")
        raise RecipeError(f"There is no recipe {name!r}.{suggest(name, entries)} `diffadapt ls` lists them.")
    recipe = functions.build(entries[name], "recipe")
    if not hasattr(recipe, "pipeline") or not is_dataclass(recipe):
        raise RecipeError(
            f"The recipe {name!r} returns a {type(recipe).__name__}: it must return a recipe value such as"
            " SDA(...)."
        )
    return recipe


def read_file(place: str) -> tuple[str, dict[str, Any]]:
    """(recipe name, overrides) of a JSON file; RecipeError when it is not there or holds something else."""

    try:
        file: Any = open_place(place, "rb", RecipeError)
        with file as handle:
            value = parse(handle.read(LARGEST + 1), strict=True)
        name, overrides = value["recipe"], value["overrides"]
        if not isinstance(name, str) or name.endswith(".json") or not isinstance(overrides, dict):
            raise ValueError("it has other values under these names")
    except (OSError, ImportError) as error:
        raise RecipeError(
            f"The recipe file {redact(place)} cannot be read ({type(error).__name__}): mend the path."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise RecipeError(
            f"The file {redact(place)} is no recipe ({what}): it must hold"
            f' {{"recipe": "name", "overrides": {{"field":'
            " value}}, as recommended.json of a sweep does."
        ) from None
    return name, overrides

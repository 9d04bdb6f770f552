"""Find and load recipes: Python functions under pipelines/ that return a recipe value.

``pipelines/sda/imagenet_c.py`` with functions ``resnet50`` and ``swin_t`` gives the recipes ``sda/imagenet_c/resnet50`` and
``sda/imagenet_c/swin_t``; a function called ``recipe`` gives the file's own name. The checkout's folder is preferred to
the one installed with the package; DIFFADAPT_PIPELINES names another.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diffadapt.core.config import override
from diffadapt.core.errors import DiffadaptError, RecipeError, suggest
from diffadapt.core.store import redact

RECIPE_MODULE = "diffadapt_recipe"
"""How the module names of recipe files begin."""


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe: its name, the first sentence of its docstring, and the function that returns it."""

    name: str
    summary: str
    build: Callable[[], Any]
    file: Path


def folders() -> list[Path]:
    """Where recipes are looked for, best first."""
    package = Path(__file__).resolve().parent.parent
    found = [Path(p) for p in os.environ.get("DIFFADAPT_PIPELINES", "").split(os.pathsep) if p]
    found += [package.parent.parent / "pipelines", package / "_pipelines"]
    return [p for p in found if p.is_dir()]


def recipes() -> dict[str, RecipeEntry]:
    """Every recipe by name."""
    entries: dict[str, RecipeEntry] = {}
    for root in folders():
        for file in sorted(root.rglob("*.py")):
            if file.name.startswith("_"):
                continue
            stem = file.relative_to(root).with_suffix("").as_posix().removesuffix("/recipe")
            module = import_file(file, stem)
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ != module.__name__ or name.startswith("_"):
                    continue
                full = stem if name == "recipe" else f"{stem}/{name}"
                summary = (inspect.getdoc(function) or inspect.getdoc(module) or "").split("\n")[0]
                entries.setdefault(full, RecipeEntry(full, summary, function, file))
    return dict(sorted(entries.items()))


def load(name: str) -> Any:
    """The recipe value called ``name``, or that of a JSON file with a recipe's name and overrides, such as a sweep's
    recommended.json or a run's recipe.json (a path or URL); RecipeError with the nearest name otherwise."""
    if name.endswith(".json"):
        base, overrides = read_file(name)
        return override(load(base), overrides)
    entries = recipes()
    if name not in entries:
        inside = [n for n in entries if n.startswith(name.rstrip("/") + "/")]
        if inside:
            raise RecipeError(f"{name!r} holds several recipes: {', '.join(inside[:8])}; give one of them.")
        raise RecipeError(f"There is no recipe {name!r}.{suggest(name, entries)} `diffadapt ls` lists them.")
    try:
        recipe = entries[name].build()
    except DiffadaptError:
        raise
    except Exception as error:
        raise RecipeError(f"The recipe {name!r} in {entries[name].file} cannot be built ({type(error).__name__}: {error}): mend that file.") from error
    if not hasattr(recipe, "pipeline") or not is_dataclass(recipe):
        raise RecipeError(f"The recipe {name!r} returns a {type(recipe).__name__}: it must return a recipe value such as SDA(...).")
    return recipe


def read_file(place: str) -> tuple[str, dict[str, Any]]:
    """(recipe name, overrides) of a JSON file; RecipeError when it is not there or holds something else."""
    import fsspec

    try:
        with fsspec.open(place, "rb") as handle:
            value = json.load(handle)
        name, overrides = value["recipe"], value["overrides"]
        if not isinstance(name, str) or name.endswith(".json") or not isinstance(overrides, dict):
            raise ValueError
    except (OSError, ImportError) as error:
        raise RecipeError(f"The recipe file {redact(place)} cannot be read ({type(error).__name__}): mend the path.") from None
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f'The file {redact(place)} is no recipe: it must hold {{"recipe": "name", "overrides": {{"field": value}}}}, as recommended.json of a sweep does.') from None
    return name, overrides


def import_file(file: Path, stem: str, what: str = "recipe") -> ModuleType:
    """The module of a file of recipes (or of what else ``what`` says); RecipeError when it cannot be loaded."""
    unique = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"{RECIPE_MODULE if what == 'recipe' else 'diffadapt_' + what}_{unique}_{stem.replace('/', '_')}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes of a file find their annotations through it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise RecipeError(f"The {what} file {file.name} cannot be loaded ({type(error).__name__}: {error}): mend it or move it out of {file.parent.name}/.") from error
    return module

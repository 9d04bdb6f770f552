"""A recipe with its name: what is asked for, as a value."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from diffadapt.api.calls import called
from diffadapt.core import recipes
from diffadapt.core.config import changes, execution_fields, field_types, override, to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import check_limits
from diffadapt.core.redact import scrub
from diffadapt.train.trackers.base import check_trackers


@dataclass(frozen=True)
class Recipe:
    """``value``: the frozen tree of fields, whose attributes this has too (``recipe.align.scale``); ``name``:
    what runs are called after; ``base``: the value that the name stands for, None where it is no name that
    `diffadapt ls` lists."""

    name: str
    value: Any
    base: Any = None

    @classmethod
    def listed(cls, name: str, value: Any) -> Recipe:
        """``value``, which was made of the recipe that ``name`` stands for."""
        return cls(name, value, recipes.load(name))

    @property
    def overrides(self) -> dict[str, Any]:
        """Dotted field -> value, where it differs from what the name stands for."""
        return changes(self.base, self.value) if type(self.base) is type(self.value) else {}

    def fields(self) -> dict[str, Any]:
        """Dotted field -> value of every field, credentials masked."""
        return {k: v for k, (v, _) in self._shown().items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(f.name for f in fields(self.value))})

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in scrub(self.overrides).items())
        return f"{self.name}{f' with {shown}' if shown else ''}"

    __repr__ = __str__

    def _shown(self) -> dict[str, tuple[Any, Any]]:
        found: dict[str, tuple[Any, Any]] = {}

        def walk(now: Mapping[str, Any], base: Any, prefix: str) -> None:
            for key, value in now.items():
                other = base.get(key) if isinstance(base, Mapping) else None
                if isinstance(value, Mapping):
                    walk(value, other, f"{prefix}{key}.")
                else:
                    found[f"{prefix}{key}"] = (value, other)

        walk(scrub(to_dict(self.value)), scrub(to_dict(self.base)) if self.base is not None else None, "")
        return found

    def _repr_html_(self) -> str:
        outside = execution_fields(self.value)
        rows = "".join(
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>".format(
                html.escape(name),
                html.escape(str(value)),
                "changed"
                if self.base is not None and value != other
                else "execution only"
                if name in outside
                else "",
            )
            for name, (value, other) in self._shown().items()
        )
        head = "<tr><th>field</th><th>value</th><th></th></tr>"
        return (
            f"<p>{html.escape(str(self))}</p><details><summary>all fields</summary>"
            f"<table>{head}{rows}</table></details>"
        )


@called
def recipe(what: Any, /, *, name: str = "", **overrides: Any) -> Recipe:
    """The recipe ``what`` with fields replaced: ``da.recipe("quickstart", **{"align.scale": 1.0})``.

    ``what``: a name that ``diffadapt ls`` lists, a JSON file with a name and overrides (a run's recipe.json,
    a sweep's recommended.json), a recipe from an earlier call, or a recipe value of one's own, such as
    ``SDA(...)``. ``overrides``: fields by their dotted names, the short options of the command line
    (``target=``, ``images_per_class=``), or a whole group as its configuration value. ``name``: what a value
    of one's own is called; by default after its class.

    Raises RecipeError for an unknown recipe or field, with the nearest name, and for a value of the wrong
    type or out of its range.
    """
    found = _found(what, name)
    return _checked(replace(found, value=override(found.value, _leaves(found.value, overrides))))


def as_recipe(what: Any) -> Recipe:
    """A recipe as callers may give it: a Recipe, a name, or a value."""
    return what if isinstance(what, Recipe) else _checked(_found(what, ""))


def _checked(recipe: Recipe) -> Recipe:
    check_limits(recipe.value)
    check_trackers(recipe.value.execution.trackers)
    return recipe


def _found(what: Any, name: str) -> Recipe:
    if isinstance(what, Recipe):
        return replace(what, name=name) if name else what
    if isinstance(what, (str, os.PathLike)):
        place = os.fspath(what)
        value, own = recipes.load(place), recipes.read_file(place)[0] if place.endswith(".json") else place
        return replace(Recipe.listed(own, value), name=name or own)
    if is_dataclass(what) and not isinstance(what, type) and hasattr(what, "pipeline"):
        return Recipe(name or type(what).__name__.lower(), what)
    raise RecipeError(
        f"A {type(what).__name__} is no recipe: give a name that `diffadapt ls` lists, or a recipe value such"
        " as SDA(...)."
    )


def _leaves(value: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` by dotted fields: short options and groups as the fields that they set."""
    short, known, out = getattr(type(value), "aliases", {}), field_types(value), {}
    for key, given in overrides.items():
        given = os.fspath(given) if isinstance(given, os.PathLike) else given
        if type(given).__module__.partition(".")[0] == "datasets":
            raise RecipeError(f"{key} is a data set in memory: give da.from_dataset({key}), its file.")
        if key not in known and is_dataclass(given) and not isinstance(given, type):
            out.update(_group(value, key, given))
            continue
        for field in short.get(key.replace("_", "-"), (key,)):
            out[field] = given
    return out


def _group(value: Any, key: str, given: Any) -> dict[str, Any]:
    """The fields of the group ``key`` that ``given`` changes."""
    group: Any = value
    for part in key.split("."):
        group = getattr(group, part, None)
    if type(group) is not type(given):
        wanted = f"a {type(group).__name__}" if is_dataclass(group) else "no group of fields"
        raise RecipeError(f"{key} is {wanted}, but a {type(given).__name__} was given.")
    return {f"{key}.{name}": new for name, new in changes(group, given).items()}

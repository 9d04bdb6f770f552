"""``diffadapt ls`` and ``diffadapt show``: what can be run, and every field of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from diffadapt.commands.options import parse, parse_recipe
from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError, suggest


@dataclass(frozen=True)
class LsOptions:
    prefix: tyro.conf.Positional[str] = ""
    """Only recipes whose names begin so."""


def ls(argv: Sequence[str]) -> int:
    from diffadapt.systems.recipes import recipes

    options = parse(LsOptions, argv, "ls")
    entries = recipes()
    chosen = {n: e for n, e in entries.items() if n.startswith(options.prefix)}
    if not chosen:
        raise RecipeError(f"No recipe begins with {options.prefix!r}.{suggest(options.prefix, entries)}")
    width = max(map(len, chosen))
    for name, entry in chosen.items():
        print(f"{name:<{width}}  {entry.summary}")
    return 0


@dataclass(frozen=True)
class ShowOptions:
    pass


def show(argv: Sequence[str]) -> int:
    name, recipe, _ = parse_recipe(ShowOptions, argv, "show")
    identity = _flat(to_dict(recipe, identity_only=True))
    everything = _flat(to_dict(recipe))
    width = max(map(len, everything))
    print(f"{name}\n")
    for key, value in everything.items():
        mark = "" if key in identity else "   (execution only)"
        print(f"--{key.replace('_', '-'):<{width}}  {value}{mark}")
    return 0


def _flat(value: dict, prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            out.update(_flat(inner, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
    return out

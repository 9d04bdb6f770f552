"""``diffadapt ls`` and ``diffadapt show``: what can be run, and every field of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tyro

from diffadapt.commands.options import parse, parse_recipe
from diffadapt.core.config import execution_fields, to_dict
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.redact import scrub
from diffadapt.core.units import number

FOLD = 10
"""Recipes of one file that `ls` without a prefix still lists one by one."""


@dataclass(frozen=True)
class LsOptions:
    prefix: tyro.conf.Positional[str] = ""
    """Only recipes whose names begin so; 'spaces': the search spaces of `diffadapt sweep`."""


def ls(argv: Sequence[str]) -> int:
    from diffadapt.core.recipes import recipes

    options = parse(LsOptions, argv, "ls")
    if options.prefix == "spaces":
        from diffadapt.sweeps.spaces import spaces

        _print({n: e.summary for n, e in spaces().items()})
        return 0
    entries = recipes()
    chosen = {n: e for n, e in entries.items() if n.startswith(options.prefix)}
    if not chosen:
        raise RecipeError(f"No recipe begins with {options.prefix!r}.{suggest(options.prefix, entries)}")
    lines = (
        {n: e.summary for n, e in chosen.items()}
        if options.prefix
        else _folded({n: e.summary for n, e in chosen.items()})
    )
    _print(lines)
    return 0


def _print(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines), default=0)
    for name, summary in lines.items():
        print(f"{name:<{width}}  {summary}")


def _folded(summaries: Mapping[str, str]) -> dict[str, str]:
    """The same with every file of more than FOLD recipes on one line."""
    files: dict[str, list[str]] = {}
    for name in summaries:
        files.setdefault(name.rpartition("/")[0] if name.count("/") > 1 else name, []).append(name)
    lines: dict[str, str] = {}
    for file, names in files.items():
        if len(names) > FOLD:
            short = ", ".join(n.rpartition("/")[2] for n in names[:3])
            lines[f"{file}/..."] = f"{len(names)} recipes: {short}, ... (`diffadapt ls {file}` lists them)"
        else:
            lines.update((n, summaries[n]) for n in names)
    return lines


@dataclass(frozen=True)
class ShowOptions:
    pass


def show(argv: Sequence[str]) -> int:
    name, recipe, _ = parse_recipe(ShowOptions, argv, "show")
    execution = execution_fields(recipe)
    everything = _flat(scrub(to_dict(recipe)))
    resolved = _flat(scrub(to_dict(getattr(recipe, "resolved", recipe))))
    width = max(map(len, everything))
    print(f"{name}\n")
    for key, value in everything.items():
        mark = "   (execution only)" if key in execution else ""
        if value != resolved[key]:
            value, mark = resolved[key], "   (the model's own)"
        print(f"--{key.replace('_', '-'):<{width}}  {value}{mark}")
    if remarks := getattr(recipe, "remarks", ()):
        print("", *remarks, sep="\n")
    return 0


def _flat(value: dict, prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            out.update(_flat(inner, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = " ".join(map(number, inner)) if isinstance(inner, list) else number(inner)
    return out

"""Parsing with tyro: options of a command, and options of a command together with a recipe's fields."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from diffadapt.core.config import field_types
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root

T = TypeVar("T")


def default_root() -> str:
    return os.environ.get("DIFFADAPT_ROOT", "diffadapt-data")


@dataclass(frozen=True)
class RootOption:
    """Where the store and the run folders are."""

    root: str = ""
    """Folder or URL (s3://..., gs://...) with the store and the runs; default: DIFFADAPT_ROOT or
    ./diffadapt-data."""

    def open(self) -> Root:
        """The root that was given; StoreError when it holds a store of another format."""
        root = Root(self.root or default_root())
        root.store.check()
        return root


def parse(options: type[T], argv: Sequence[str], command: str) -> T:
    """Parse ``argv`` into ``options``; a mistyped option exits with tyro's message and its nearest name."""
    from diffadapt.cli import COMMANDS, example

    return tyro.cli(
        options,
        prog=f"diffadapt {command}",
        args=list(argv),
        description=f"{COMMANDS[command][1].capitalize()}.\n\n{example(command)}",
    )


def parse_recipe(options: type[T], argv: Sequence[str], command: str) -> tuple[str, Any, T]:
    """(recipe name, recipe with overrides, options) from ``<recipe> [--field value ...]``."""
    from diffadapt.cli import COMMANDS, example
    from diffadapt.core import recipes

    arguments = list(argv)
    name = next((a for a in arguments[:1] if not a.startswith("-")), None)
    if name is None:
        if {"-h", "--help"} & set(arguments) or not arguments:
            print(
                f"usage: diffadapt {command} <recipe>"
                f" [options]\n\n{COMMANDS[command][1].capitalize()}.\n\n{example(command)}\n"
            )
            print(
                "`diffadapt ls` lists the recipes; `diffadapt "
                + command
                + " <recipe> --help` shows the recipe's fields."
            )
            sys.exit(0 if arguments else 2)
        raise RecipeError(
            f"The recipe comes first: diffadapt {command} <recipe> [options]. `diffadapt ls` lists them."
        )
    recipe = recipes.load(name)
    parsed = parse_fields(options, recipe, arguments[1:], command, f"{command} {name}")
    if name.endswith(".json"):
        name = recipes.read_file(name)[0]
    return name, parsed.recipe, parsed.options


def parse_fields(
    options: type, recipe: Any, argv: Sequence[str], command: str, prog: str, **more: Any
) -> Any:
    """``options`` and the fields of ``recipe`` (and of ``more``: name -> default value, under their names)
    from options of one command line.

    Returns a value with the attributes ``options``, ``recipe`` and those of ``more``. Raises RecipeError for
    a number out of its range.
    """
    from diffadapt.cli import COMMANDS, example
    from diffadapt.core.ranges import check_limits

    aliases = getattr(type(recipe), "aliases", {})
    combined = make_dataclass(
        "Combined",
        [
            ("options", Annotated[options, tyro.conf.arg(name="")]),  # type: ignore[valid-type]
            *((name, type(value), value) for name, value in more.items()),
            ("recipe", Annotated[type(recipe), tyro.conf.arg(name="")], recipe),
        ],
        frozen=True,
    )
    short = "\n".join(f"--{k}: sets {', '.join(v)}" for k, v in aliases.items() if v != (k,))
    parsed = tyro.cli(
        combined,
        prog=f"diffadapt {prog}",
        args=_truths(_expand(list(argv), aliases), recipe),
        description=f"{COMMANDS[command][1].capitalize()}.\n\n{example(command)}\n\n{short}",
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    check_limits(parsed.recipe)  # type: ignore[attr-defined]
    return parsed


def _truths(arguments: list[str], recipe: Any) -> list[str]:
    """true and false in any case for the fields that are one or the other; the parser wants True and
    False."""
    switches = {f"--{name.replace('_', '-')}" for name, hint in field_types(recipe).items() if hint is bool}
    out = list(arguments)
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") in switches:
            if equals and value.lower() in ("true", "false"):
                out[i] = f"{name}={value.capitalize()}"
            elif not equals and i + 1 < len(out) and out[i + 1].lower() in ("true", "false"):
                out[i + 1] = out[i + 1].capitalize()
    return out


def _expand(arguments: list[str], aliases: dict[str, tuple[str, ...]]) -> list[str]:
    """Short options (--data X) as the fields that they set."""
    out: list[str] = []
    i = 0
    while i < len(arguments):
        word, equals, value = arguments[i].partition("=")
        fields = aliases.get(word.removeprefix("--").replace("_", "-")) if word.startswith("--") else None
        if fields is None or fields == (word.removeprefix("--"),):
            out.append(arguments[i])
            i += 1
            continue
        if not equals:
            if i + 1 >= len(arguments):
                raise RecipeError(f"{word} needs a value.")
            value = arguments[i + 1]
            i += 1
        for field in fields:
            out += [f"--{field.replace('_', '-')}", value]
        i += 1
    return out

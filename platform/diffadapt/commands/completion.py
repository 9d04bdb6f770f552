"""``diffadapt completion``: the script that a shell loads to complete commands, recipes, options, their
values and runs. It asks this program what fits, as kubectl's does, so that it knows recipes and methods of
one's own."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from diffadapt.commands.options import ALL, options_of, parse
from diffadapt.commands.wrong import words_of

ASK = "__complete"
"""The hidden command that the scripts ask: the words after `diffadapt`, the one that is being typed last."""
OF_RECIPES = ("show", "plan", "run", "submit")
OF_RUNS = ("status", "report", "compare", "export")
SCRIPTS = {
    "bash": f"""\
# in ~/.bashrc: source <(diffadapt completion bash)
_diffadapt() {{
    local IFS=$'\\n'
    COMPREPLY=($(diffadapt {ASK} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _diffadapt diffadapt""",
    "zsh": f"""\
# in ~/.zshrc, after compinit: source <(diffadapt completion zsh)
_diffadapt() {{
    local -a found
    found=("${{(@f)$(diffadapt {ASK} "${{(@)words[2,CURRENT]}}" 2>/dev/null)}}")
    found=(${{found:#}})
    if (( $#found )); then compadd -- $found; else _files; fi
}}
compdef _diffadapt diffadapt""",
}


@dataclass(frozen=True)
class CompletionOptions:
    shell: tyro.conf.Positional[Literal["bash", "zsh"]] = "bash"
    """The shell that loads it."""


def completion(argv: Sequence[str]) -> int:
    print(SCRIPTS[parse(CompletionOptions, argv, "completion").shell])
    return 0


def complete(words: Sequence[str]) -> int:
    """Print what may stand for the last of ``words``, one a line; nothing where a path may, or nothing is
    known. Whatever is wrong is no matter of somebody who is still typing."""
    with contextlib.suppress(Exception, SystemExit):
        print(*candidates(words), sep="\n")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """What may stand for the last of ``words``."""
    from diffadapt.cli import COMMANDS

    *before, typed = words or [""]
    if not before:
        return _beginning(COMMANDS, typed)
    command, *given = before
    if given and given[-1].startswith("--"):
        hint = _options(command, given).get(given[-1])
        if given[-1] == "--root" or hint is not None and words_of(hint):
            return _beginning(words_of(hint), typed)
    if typed.startswith("-"):
        options = _options(command, given)
        return _beginning([*options, "--help", *([ALL] if command in OF_RECIPES else [])], typed)
    if given and given[-1].startswith("--") and command in OF_RECIPES:
        return []
    return _beginning(_first(command, given), typed)


def _first(command: str, given: Sequence[str]) -> Iterable[str]:
    """What a command takes before its options: a recipe, a space, runs; its second words."""
    if command in OF_RECIPES and not given:
        from diffadapt.core.recipes import recipes

        return recipes()
    if command == "ls" and not given:
        from diffadapt.core.recipes import recipes

        return ["spaces", *recipes()]
    if command == "sweep" and not given:
        from diffadapt.sweeps.spaces import spaces

        return spaces()
    if command in OF_RUNS or given and given[-1] == "--run":
        from diffadapt.api.places import open_root

        root = given[given.index("--root") + 1] if "--root" in given[:-1] else ""
        return ["last", *open_root(root).names()]
    return () if given else SECOND.get(command, ())


SECOND = {
    "cache": ("ls", "why", "verify", "gc"),
    "completion": ("bash", "zsh"),
    "cluster": ("init",),
    "job": ("ls", "logs", "stop"),
}


def _options(command: str, given: Sequence[str]) -> dict[str, Any]:
    """Option -> type of its value, of a command and of the recipe that it was given."""
    from diffadapt.cli import COMMANDS

    module = importlib.import_module(f"diffadapt.commands.{COMMANDS[command][0]}")
    kind = getattr(module, f"{command.capitalize()}Options", None)
    known: dict[str, Any] = {} if kind is None else options_of(kind, flags=command not in OF_RECIPES)
    if command in OF_RECIPES and given:
        known |= _fields(given[0])
    return known


def _fields(recipe: str) -> Mapping[str, Any]:
    from diffadapt.core import recipes
    from diffadapt.core.config import field_types

    value = recipes.load(recipe)
    known = {f"--{k.replace('_', '-')}": v for k, v in field_types(value).items()}
    return known | {f"--{k}": str for k in getattr(type(value), "aliases", {}) if f"--{k}" not in known}


def _beginning(words: Iterable[str], typed: str) -> list[str]:
    return [w for w in dict.fromkeys(words) if w.startswith(typed)]

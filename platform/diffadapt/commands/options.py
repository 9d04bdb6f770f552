"""Parsing with tyro: options of a command, and options of a command together with a recipe's fields."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from diffadapt.api.places import open_root
from diffadapt.commands.wrong import FLAG, sentence
from diffadapt.core.config import field_types
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.core.terminal import columns, cut, wrapped
from diffadapt.train.trackers.base import check_trackers

T = TypeVar("T")
ALL = "--help-all"
"""Describes every field; --help is short."""


@dataclass(frozen=True)
class RootOption:
    """Where the store and the run folders are."""

    root: str = ""
    """Folder or URL (s3://..., gs://...) with the store and the runs; default: DIFFADAPT_ROOT or
    ./diffadapt-data."""

    def open(self) -> Root:
        """The root that was given; StoreError when it holds a store of another format."""
        return open_root(self.root)


def parse(options: type[T], argv: Sequence[str], command: str) -> T:
    """Parse ``argv`` into ``options``. RecipeError for a mistyped option, with the nearest name, and for a
    value that it does not take."""
    from diffadapt.cli import COMMANDS, example

    return _said(
        lambda: tyro.cli(
            options,
            prog=f"diffadapt {command}",
            args=list(argv),
            description=f"{COMMANDS[command][1].capitalize()}.\n\n{example(command)}",
        ),
        argv,
        options_of(options, flags=True),
        f"diffadapt {command} --help",
    )


def options_of(options: type, *, flags: bool = False) -> dict[str, Any]:
    """Option -> type of its value, of a class of options; with ``flags`` those that are on or off take
    none."""
    positional = get_type_hints(options, include_extras=True)
    known: dict[str, Any] = {}
    for name, hint in get_type_hints(options).items():
        if get_origin(positional[name]) is Annotated:  # a positional argument, but for what is a limit
            if any("Positional" in str(m) or "positional" in str(m) for m in get_args(positional[name])[1:]):
                continue
        option = name.replace("_", "-")
        known[f"--{option}"] = FLAG if flags and hint is bool else hint
        if flags and hint is bool:
            known[f"--no-{option}"] = FLAG
    return known


def _said(read: Callable[[], T], words: Sequence[str], known: Mapping[str, Any], lists: str) -> T:
    """What ``read`` makes of ``words``; what is wrong with them as a RecipeError in our own words."""
    out, err = io.StringIO(), io.StringIO()
    if {"-h", "--help"} & set(words):
        return read()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return read()
    except SystemExit as ended:
        if not ended.code:
            print(out.getvalue(), end="")
            raise
        raise RecipeError(sentence(words, known, lists, err.getvalue() or out.getvalue())) from None


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
    words = _truths(_expand(list(argv), aliases), recipe)
    short = "\n".join(f"--{k}: sets {', '.join(v)}" for k, v in aliases.items() if v != (k,))
    about = f"{COMMANDS[command][1].capitalize()}.\n\n{example(command)}\n\n{short}"

    def read(options: Any, recipe: Any) -> Any:
        combined = make_dataclass(
            "Combined",
            [
                ("options", Annotated[type(options), tyro.conf.arg(name="")], options),
                *((name, type(value), value) for name, value in more.items()),
                ("recipe", Annotated[type(recipe), tyro.conf.arg(name="")], recipe),
            ],
            frozen=True,
        )
        return tyro.cli(
            combined,
            prog=f"diffadapt {prog}",
            args=words,
            description=about,
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )

    if {"-h", "--help"} & set(words):
        _short_help(options, recipe, about, prog, more)
        sys.exit(0)
    if ALL in words:
        words = ["--help"]
    known = {f"--{k.replace('_', '-')}": v for k, v in field_types(recipe).items()} | options_of(options)
    for name, value in more.items():
        known |= {f"--{name}.{k}".replace("_", "-"): v for k, v in field_types(value).items()}
    parsed = _of_the_named(options(), recipe, words, read) or _said(
        lambda: read(options(), recipe), words, known, f"diffadapt {prog} {ALL}"
    )
    check_limits(parsed.recipe)
    check_trackers(parsed.recipe.execution.trackers)
    return parsed


def _short_help(options: type, recipe: Any, about: str, prog: str, more: Mapping[str, Any]) -> None:
    """The command's own options, and the groups of the recipe's fields with how many each has."""
    with contextlib.suppress(SystemExit):
        tyro.cli(options, prog=f"diffadapt {prog}", args=["--help"], description=about)
    groups = {
        f.name: getattr(recipe, f.name) for f in fields(recipe) if is_dataclass(getattr(recipe, f.name))
    }
    own = [f"--{f.name.replace('_', '-')}" for f in fields(recipe) if f.name not in groups]
    groups |= more
    width, room = max(map(len, groups), default=0), columns()
    count = len(own) + sum(len(field_types(v)) for v in groups.values())
    print(f"\nFields of the recipe, each an option ({count}):\n\n{wrapped(' '.join(own), room)}")
    for name, value in groups.items():
        title = f"--{name.replace('_', '-')}.*"
        line = f"  {title:<{width + 4}} {len(field_types(value)):>3}  {_first(type(value))}"
        print(cut(line.rstrip(), room))
    recipe_name = prog.partition(" ")[2]
    print(
        "\n"
        + wrapped(f"`diffadapt {prog} {ALL}` describes every field.", room, "")
        + (
            "\n" + wrapped(f"`diffadapt show {recipe_name}` has their values.", room, "")
            if recipe_name
            else ""
        )
    )


def _first(kind: type) -> str:
    """The first sentence of a class's docstring."""
    doc = " ".join((kind.__doc__ or "").split())
    return "" if doc.startswith(f"{kind.__name__}(") else doc.partition(". ")[0].rstrip(".")


def _of_the_named(options: Any, recipe: Any, words: Sequence[str], read: Callable[[Any, Any], Any]) -> Any:
    """What ``read`` makes of the options and of those fields of the recipe alone that ``words`` name: a
    parser of all fields, several hundred, takes longer than most plans. None where that parser has to speak:
    for help, and for whatever is wrong."""
    if {"-h", "--help"} & set(words):
        return None
    known = field_types(recipe)
    named = {w.partition("=")[0].removeprefix("--").replace("-", "_") for w in words if w.startswith("--")}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            parsed = read(
                _part(options, [[f.name] for f in fields(options)]),
                _part(recipe, [n.split(".") for n in known if n in named]),
            )
        return replace(
            parsed, options=_joined(options, parsed.options), recipe=_joined(recipe, parsed.recipe)
        )
    except (SystemExit, Exception):  # said by the whole parser, in the words of its own fields
        return None


def _part(config: Any, paths: Sequence[Sequence[str]]) -> Any:
    """A value of a class of the same name that has those fields alone to which ``paths`` lead."""
    hints = get_type_hints(type(config), include_extras=True)
    inner: dict[str, list[Sequence[str]]] = {}
    for head, *rest in paths:
        inner.setdefault(head, []).append(rest)
    members: list[tuple[str, Any, Any]] = []
    for name, deeper in inner.items():
        value = getattr(config, name)
        if is_dataclass(value):
            value = _part(value, deeper)
        hint = type(value) if is_dataclass(value) else hints[name]
        members.append((name, hint, field(default_factory=lambda value=value: value)))
    return make_dataclass(type(config).__name__, members, frozen=True)()


def _joined(config: Any, part: Any) -> Any:
    """``config`` with the values of ``part``, a part of it."""
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    return replace(
        config, **{k: _joined(getattr(config, k), v) if is_dataclass(v) else v for k, v in values.items()}
    )


def _truths(arguments: list[str], recipe: Any) -> list[str]:
    """true and false in any case for the fields that are one or the other; the parser wants True and
    False."""
    known = field_types(recipe).items()
    switches = {f"--{name.replace('_', '-')}" for name, hint in known if hint in (bool, bool | None)}
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
        aliased = aliases.get(word.removeprefix("--").replace("_", "-")) if word.startswith("--") else None
        if aliased is None or aliased == (word.removeprefix("--"),):
            out.append(arguments[i])
            i += 1
            continue
        if not equals:
            if i + 1 >= len(arguments):
                raise RecipeError(f"{word} needs a value.")
            value = arguments[i + 1]
            i += 1
        for one in aliased:
            out += [f"--{one.replace('_', '-')}", value]
        i += 1
    return out

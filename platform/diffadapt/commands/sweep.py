"""``diffadapt sweep``: plan a search, print what it saves, carry it out, show table and report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffadapt.commands.options import parse_fields
from diffadapt.commands.plan import CostOptions, sweep_time
from diffadapt.core.config import changes, override
from diffadapt.core.errors import RecipeError
from diffadapt.core.redact import redact
from diffadapt.sweeps.space import Axis, Choice, Space

if TYPE_CHECKING:
    from diffadapt.run.sweep import SweepPlan
    from diffadapt.sweeps.union import Economy


@dataclass(frozen=True)
class SweepOptions(CostOptions):
    pass


@dataclass
class Words:
    """What a sweep's command line says besides options and fields."""

    space: str = ""
    recipe: str = ""
    benchmarks: tuple[str, ...] = ()
    axes: tuple[tuple[str, str], ...] = ()
    plan: bool = False
    """Only say what the sweep needs and saves; nothing is written."""


def sweep(argv: Sequence[str]) -> int:
    import time

    from diffadapt.api.sweep import carry_out, demand_one, prepare, say
    from diffadapt.commands.report import show_sweep
    from diffadapt.core.units import format_seconds
    from diffadapt.run.sweep import SweepRequest

    started = time.monotonic()
    told = read_words(argv, "sweep", "sweep")
    request = SweepRequest(told.name, told.space, told.recipes, told.overrides)
    machine = told.options.machine()
    prepared = prepare(request, told.options.open(), machine)
    recipes, plan = prepared.request.recipes, prepared.plan
    print(redact(format_sweep(told.name, told.space, recipes, plan)), flush=True)
    if time_text := sweep_time(list(plan.plans.values()), prepared.root, told.options, prepared.execution):
        print("\n".join(f"  {line}" for line in time_text.splitlines()), flush=True)
    if told.words.plan:
        return 0
    done = carry_out(prepared, say)
    show_sweep(done)
    print(f"\n{format_seconds(time.monotonic() - started)}")
    demand_one(done)
    return 0


@dataclass(frozen=True)
class Told:
    """A whole command line, read: ``recipes`` by name, the first with its own options; ``overrides``: what
    these changed, execution apart."""

    words: Words
    name: str
    space: Space
    recipes: Mapping[str, Any]
    overrides: Mapping[str, Any]
    options: SweepOptions


def read_words(argv: Sequence[str], command: str, prog: str) -> Told:
    """What ``argv`` asks for, as ``command``'s help calls it. RecipeError for what cannot be meant."""
    words, rest = split_words(list(argv))
    name, space, recipe_name, base = resolve(words, rest)
    parsed = parse_fields(SweepOptions, base, rest, command, f"{prog} {name}", search=space.search)
    changed = changes(base, parsed.recipe)
    recipes = {
        recipe_name: parsed.recipe,
        **{n: override(_load(n), changed) for n in words.benchmarks if n != recipe_name},
    }
    overrides = {k: v for k, v in changed.items() if not k.startswith("execution.")}
    return Told(words, name, replace(space, search=parsed.search), recipes, overrides, parsed.options)


def split_words(arguments: list[str]) -> tuple[Words, list[str]]:
    """The space, --recipe, --benchmarks, --axis and --plan of a command line, and the words that are left."""
    words, rest, i = Words(), [], 0
    while i < len(arguments):
        word, equals, value = arguments[i].partition("=")
        if word in ("--recipe", "--benchmarks", "--axis"):
            if not equals:
                i += 1
                value = arguments[i] if i < len(arguments) else ""
            if not value:
                raise RecipeError(f"{word} needs a value.")
            if word == "--axis":
                field, found, values = value.partition("=")
                if not found or not values:
                    raise RecipeError(f"--axis {value} names no values: write --axis field=value,value.")
                words.axes += ((field.replace("-", "_"), values),)
            elif word == "--recipe":
                words.recipe = value
            else:
                words.benchmarks += tuple(v for v in value.split(",") if v)
        elif arguments[i] == "--plan":
            words.plan = True
        elif i == 0 and not word.startswith("-"):
            words.space = arguments[0]
        else:
            rest.append(arguments[i])
        i += 1
    return words, rest


def resolve(words: Words, rest: Sequence[str]) -> tuple[str, Space, str, Any]:
    """(space name, space with the axes of the command line, recipe name, recipe) of what was said."""
    from diffadapt.cli import COMMANDS, example
    from diffadapt.sweeps.spaces import load_space, spaces

    if not words.space and not words.axes:
        print(
            "usage: diffadapt sweep <space> --recipe <recipe> [--benchmarks a,b,c] [--axis field=1,2,4]"
            f" [--plan] [options]\n\n{COMMANDS['sweep'][1].capitalize()}.\n\n{example('sweep')}\n"
        )
        for name, entry in spaces().items():
            print(f"  {name:<24} {entry.summary}")
        sys.exit(0 if {"-h", "--help"} & set(rest) else 2)
    name, space = load_space(words.space) if words.space else ("axes", Space({}))
    recipe = words.recipe or (words.benchmarks[0] if words.benchmarks else space.recipe)
    if not recipe:
        raise RecipeError(f"The space {name} names no recipe: give --recipe; `diffadapt ls` lists them.")
    if recipe.endswith(".json"):
        raise RecipeError(
            "A sweep starts from a recipe by its name: give --recipe with a name that `diffadapt ls` lists,"
            " and fields as options."
        )
    base = _load(recipe)
    axes: dict[str, Axis] = {
        **space.axes,
        **{field: _axis(base, field, values) for field, values in words.axes},
    }
    return name, replace(space, axes=axes), recipe, base


def _axis(recipe: Any, field: str, values: str) -> Choice:
    """An axis from the command line; values of a tuple field are separated by spaces."""
    from diffadapt.core.config import coerce, field_types

    hint = field_types(recipe).get(field)
    return Choice(*(v if hint is None else coerce(hint, v.strip(), field) for v in values.split(",")))


def _load(name: str) -> Any:
    from diffadapt.core.recipes import load

    return load(name)


def format_sweep(name: str, space: Space, recipes: Mapping[str, Any], plan: SweepPlan) -> str:
    """What a sweep needs, and what it saves against trials that share nothing."""
    search = space.search
    trials = len(plan.trials) or search.trials * len(recipes)
    lines = [
        f"{name}: {trials} trials"
        f" ({search.searcher}{'' if search.scheduler == 'none' else ', ' + search.scheduler}), objective"
        f" {_objective(search.objective)}"
    ]
    lines += [f"  {axis}: {_values(space.axes[axis])}" for axis in space.axes]
    if len(recipes) > 1:
        lines.append(f"  benchmarks: {', '.join(recipes)}")
    for trial, error in plan.broken.items():
        lines.append(f"  {trial} cannot be planned: {error}")
    if not plan.economy:
        return "\n".join(
            [*lines, "", "  The trials are decided as the search goes; what two of them share is made once."]
        )
    lines += [
        "",
        f"  {'':<14} {'one by one':>22} {'together':>22} {'in the store':>14}",
        f"  {'stage':<14} {'shards':>8} {'images':>13} {'shards':>8} {'images':>13} {'shards':>14}",
    ]
    for e in plan.economy:
        lines.append(
            f"  {e.kind:<14} {e.apart:>8} {e.apart_items:>13} {e.together:>8} {e.together_items:>13}"
            f" {e.at_hand:>14}"
        )
    apart, together = sum(e.apart for e in plan.economy), sum(e.together for e in plan.economy)
    lines.append(f"\n  {_saving(plan.economy)}{together} shards and fits instead of {apart} one by one.")
    return "\n".join(lines)


def _saving(rows: Sequence[Economy]) -> str:
    made = next((e for e in rows if e.kind == "synth"), None)
    return (
        f"{made.together_items} images are generated instead of {made.apart_items}; "
        if made and made.together_items < made.apart_items
        else ""
    )


def _objective(name: str) -> str:
    return (
        "accuracy on target labels (oracle: an upper bound)" if name == "oracle" else f"{name} (label-free)"
    )


def _values(axis: Axis) -> str:
    if isinstance(axis, Choice):
        return ", ".join(map(str, axis.values))
    return f"{axis.low} to {axis.high}"

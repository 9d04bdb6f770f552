"""``diffadapt run``: make what is missing, print the table, say where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffadapt.commands.common import show_result
from diffadapt.commands.options import RootOption, parse_recipe


@dataclass(frozen=True)
class RunOptions(RootOption):
    pass


def run(argv: Sequence[str]) -> int:
    import time

    from diffadapt.api.plan import format_plan, prepare
    from diffadapt.api.recipe import Recipe
    from diffadapt.api.run import carry_out
    from diffadapt.core.units import format_seconds

    name, recipe, options = parse_recipe(RunOptions, argv, "run")
    started = time.monotonic()
    plan = prepare(Recipe.listed(name, recipe), options.open())
    print(
        format_plan(name, plan.summary, execution=plan.recipe.execution)
        if plan.missing
        else f"{name}: everything is in the store",
        flush=True,
    )
    show_result(carry_out(plan).folder)
    print(f"\n{format_seconds(time.monotonic() - started)}")
    return 0

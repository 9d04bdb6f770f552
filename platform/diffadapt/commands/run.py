"""``diffadapt run``: make what is missing, print the table, say where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffadapt.commands.common import format_plan, make_runner, show_result
from diffadapt.commands.options import RootOption, parse_recipe
from diffadapt.commands.precision import settled


@dataclass(frozen=True)
class RunOptions(RootOption):
    pass


def run(argv: Sequence[str]) -> int:
    import time

    from diffadapt.core.config import changes
    from diffadapt.core.plan import summarise
    from diffadapt.core.recipes import load
    from diffadapt.core.units import format_seconds
    from diffadapt.run.drive import drive

    name, recipe, options = parse_recipe(RunOptions, argv, "run")
    recipe = settled(recipe)
    started = time.monotonic()
    root = options.open()
    pipeline = recipe.pipeline()
    plans = pipeline.plan(root.store)
    summary = summarise(plans, root.store)
    print(
        format_plan(name, summary, execution=recipe.execution)
        if summary.missing
        else f"{name}: everything is in the store",
        flush=True,
    )
    finished = drive(
        name,
        recipe,
        replace(pipeline, planned=plans),
        root,
        lambda: make_runner(recipe.execution),
        overrides=changes(load(name), recipe),
    )
    show_result(finished)
    print(f"\n{format_seconds(time.monotonic() - started)}")
    return 0

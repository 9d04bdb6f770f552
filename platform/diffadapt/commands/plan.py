"""``diffadapt plan``: shards to make, shards at hand, what is missing; the same validation as ``run``, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffadapt.commands.options import RootOption, parse_recipe
from diffadapt.core.leniency import lenient
from diffadapt.core.plan import PlanSummary, summarise


@dataclass(frozen=True)
class PlanOptions(RootOption):
    pass


def plan(argv: Sequence[str]) -> int:
    name, recipe, options = parse_recipe(PlanOptions, argv, "plan")
    with lenient() as notes:
        store = options.open().store
        summary = summarise(recipe.pipeline().plan(store), store)
    print(format_plan(name, summary))
    for note in notes:
        print(f"\nNot at hand: {note}")
    if notes:
        print("\nThe counts hold; `run` needs what is not at hand.")
    return 0


def format_plan(name: str, summary: PlanSummary) -> str:
    """The plan as a table."""
    lines = [f"{name}: {summary.missing} of {summary.shards} shards to make", "", f"  {'stage':<28} {'shards':>8} {'to make':>8} {'images':>10} {'to make':>10}"]
    for n in summary.nodes:
        lines.append(f"  {n.name:<28} {n.shards:>8} {n.missing:>8} {n.items:>10} {n.missing_items:>10}")
    return "\n".join(lines)

"""``diffadapt plan``: shards to make, shards at hand, what is missing; the same validation as ``run``, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffadapt.commands.options import RootOption, parse_recipe
from diffadapt.core.leniency import lenient
from diffadapt.core.plan import NodeSummary, PlanSummary, summarise


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
    """The plan as a table; stages that differ by transfer or seed alone (their names from the first dot on) share a line."""
    groups: dict[str, list[NodeSummary]] = {}
    for n in summary.nodes:
        groups.setdefault(n.name.partition(".")[0], []).append(n)
    lines = [f"{name}: {summary.missing} of {summary.shards} shards to make", "", f"  {'stage':<34} {'shards':>8} {'to make':>8} {'images':>10} {'to make':>10}"]
    for stem, nodes in groups.items():
        title = f"{stem} (x{len(nodes)})" if len(nodes) > 1 else nodes[0].name
        sums = [sum(getattr(n, field) for n in nodes) for field in ("shards", "missing", "items", "missing_items")]
        lines.append(f"  {title:<34} {sums[0]:>8} {sums[1]:>8} {sums[2]:>10} {sums[3]:>10}")
    return "\n".join(lines)

"""What a run would make, and what the store already has: the same checks as a run's, nothing written."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from diffadapt.api.calls import called
from diffadapt.api.places import Place, open_root
from diffadapt.api.precision import settled
from diffadapt.api.recipe import Recipe, as_recipe
from diffadapt.api.runners import cluster_layout
from diffadapt.core import ledger
from diffadapt.core.config import leaves, override
from diffadapt.core.errors import WeightsError
from diffadapt.core.estimate import Estimate, StageEstimate, estimate
from diffadapt.core.leniency import lenient
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.plan import NodeSummary, PlanSummary, notes, summarise
from diffadapt.core.prices import Instance, find
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root
from diffadapt.core.schedule import finished
from diffadapt.core.stage import NodePlan
from diffadapt.core.units import format_seconds
from diffadapt.models.counts import KnownCounts
from diffadapt.run.choice import choose
from diffadapt.run.runner import ExecutionConfig

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Plan:
    """A recipe on a root. ``nodes``: the stages by name, with every shard; ``summary``: their counts;
    ``estimate``: how long what is missing takes, as far as it was measured or can be counted;
    ``warnings``: what was noticed of the data; ``not_at_hand``: sentences on what `run` needs and is not
    there."""

    recipe: Recipe
    root: Root
    pipeline: Pipeline
    nodes: Mapping[str, NodePlan]
    summary: PlanSummary
    estimate: Estimate | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    not_at_hand: tuple[str, ...] = ()
    layout: Any = None

    @property
    def shards(self) -> int:
        """Shards and fits of the whole run."""
        return self.summary.shards

    @property
    def missing(self) -> int:
        """Those of them that are not in the store."""
        return self.summary.missing

    def table(self) -> pd.DataFrame:
        """A row a stage: shards, those to make, images, those to make, and seconds of device time (NaN where
        they are not known)."""
        import pandas as pd

        times = {s.name: s.seconds for s in self.estimate.stages} if self.estimate else {}
        rows = [
            (n.name, n.shards, n.missing, n.items, n.missing_items, times.get(n.name, float("nan")))
            for n in self.summary.nodes
        ]
        columns = ["stage", "shards", "to_make", "images", "images_to_make", "seconds"]
        return pd.DataFrame(rows, columns=columns).set_index("stage")

    def __str__(self) -> str:
        text = format_plan(self.recipe.name, self.summary, self.estimate, self.recipe.execution)
        return "\n".join([text, *(f"\n{sentence}" for sentence in self._said())])

    __repr__ = __str__

    def _said(self) -> list[str]:
        return [
            *(f"Warning: {sentence} [{node}]" for sentence, node in self.warnings.items()),
            *(f"Not at hand: {redact(note)}" for note in self.not_at_hand),
        ]

    def _repr_html_(self) -> str:
        where = f", {choose(self.recipe.execution)}" if self.missing else ""
        head = f"{self.recipe.name}: {self.missing} of {self.shards} shards to make{where}"
        said = "".join(f"<p>{html.escape(s)}</p>" for s in self._said())
        table = self.table().dropna(axis="columns", how="all")
        return f"<p>{html.escape(head)}</p>{table.to_html()}{said}"


@called
def plan(
    recipe: Any, *, root: Place | None = None, runner: str | None = None, on: str = "", prices: str = ""
) -> Plan:
    """What a run of ``recipe`` would make under ``root``; writes nothing.

    ``on``: a machine of the price list (aws.p4d.24xlarge) or devices (8xH100) to count the time for, else the
    times are those measured under this root. Raises what a run of it would raise, RecipeError, DataError,
    WeightsError, but for what is merely not there: that is said in ``not_at_hand``.
    """
    machine = find(on, prices) if on else None
    return outlook(with_runner(as_recipe(recipe), runner), open_root(root), machine)


def with_runner(recipe: Recipe, runner: str | None) -> Recipe:
    """``recipe`` on another runner, where one is given."""
    if runner is None:
        return recipe
    return replace(recipe, value=override(recipe.value, {"execution.runner": runner}))


def prepare(recipe: Recipe, root: Root) -> Plan:
    """The plan that a run carries out. Raises DiffadaptError for everything that is not at hand."""
    recipe = replace(recipe, value=settled(recipe.value))
    pipeline = recipe.value.pipeline()
    try:
        plans = pipeline.plan(root.store)
    except WeightsError as error:
        raise type(error)(_with_option(recipe.value, str(error))) from error
    return Plan(recipe, root, pipeline, plans, summarise(plans, root.store))


def outlook(recipe: Recipe, root: Root, machine: Instance | None = None) -> Plan:
    """The plan that a person looks at, with times on ``machine``."""
    layout = cluster_layout(recipe.execution)
    recipe = replace(recipe, value=settled(recipe.value, machine, layout))
    with lenient() as lacking:
        pipeline = recipe.value.pipeline()
        plans = pipeline.plan(root.store)
        said = notes(plans)
    guess = missing_time(plans, root, machine, recipe.execution.threads or 1)
    summary = summarise(plans, root.store)
    lacking = [_with_option(recipe.value, sentence) for sentence in lacking]
    return Plan(recipe, root, pipeline, plans, summary, guess, said, tuple(lacking), layout)


FOLDER = "give the folder"
"""What a sentence about weights says where a folder can take their place; the stage that says it does not
know which option they came from."""


def _with_option(recipe: Any, sentence: str) -> str:
    """``sentence`` with the options of ``recipe`` that hold what it quotes, where it asks for a folder."""
    if FOLDER not in sentence:
        return sentence
    named = [
        f"--{name.replace('_', '-')}"
        for name, value in leaves(recipe).items()
        if isinstance(value, str)
        and value
        and repr(value.removeprefix("hf-hub:").partition("@")[0]) in sentence
    ]
    return sentence.replace(FOLDER, f"{FOLDER} with {' and '.join(named)}", 1) if named else sentence


def missing_time(
    plans: Mapping[str, NodePlan], root: Root, machine: Instance | None = None, threads: int = 1
) -> Estimate:
    """How long what ``plans`` lack will take by the root's ledger, measured on the machine's device where it
    was, else counted for it (torch is imported only for networks that were never counted); writes nothing to
    the root."""
    done, measured = finished(plans, root.store), ledger.read(root.ledger)
    device, counts = machine.device if machine else "", KnownCounts(counting=machine is not None)
    return estimate(plans, done, measured, device, counts, threads)


def format_plan(
    name: str, summary: PlanSummary, guess: Estimate | None = None, execution: ExecutionConfig | None = None
) -> str:
    """The plan as a table; stages that differ by transfer or seed alone (their names from the first dot on)
    share a line. With ``execution`` it says where the work would be done."""
    groups: dict[str, list[NodeSummary]] = {}
    for n in summary.nodes:
        groups.setdefault(n.name.partition(".")[0], []).append(n)
    times = {s.name: s for s in guess.stages} if guess else {}
    more = f" {'device time':>15}  known from" if times else ""
    titles = {
        stem: f"{stem} (x{len(nodes)})" if len(nodes) > 1 else nodes[0].name for stem, nodes in groups.items()
    }
    width = max([34, *map(len, titles.values())])
    lines = [
        f"{name}: {summary.missing} of {summary.shards} shards to make"
        + (f", {choose(execution)}" if execution and summary.missing else ""),
        "",
        f"  {'stage':<{width}} {'shards':>8} {'to make':>8} {'images':>10} {'to make':>10}{more}",
    ]
    for stem, nodes in groups.items():
        sums = [
            sum(getattr(n, field) for n in nodes) for field in ("shards", "missing", "items", "missing_items")
        ]
        known = _time([times[n.name] for n in nodes if n.name in times])
        lines.append(
            f"  {titles[stem]:<{width}} {sums[0]:>8} {sums[1]:>8} {sums[2]:>10} {sums[3]:>10}{known}"
        )
    return "\n".join(lines)


def _time(stages: Sequence[StageEstimate]) -> str:
    if not stages:
        return ""
    sources = list(dict.fromkeys(s.source() for s in stages))
    known = [s for s in stages if s.seconds is not None]
    spent = sum(s.seconds or 0.0 for s in known)
    amount = "" if not known else format_seconds(spent) if spent >= 10 else f"{spent:.1f} s"
    return (
        f" {('>= ' if known and len(known) < len(stages) else '') + amount:>15} "
        f" {'; '.join(sources[:2])}{'; ...' if len(sources) > 2 else ''}"
    )

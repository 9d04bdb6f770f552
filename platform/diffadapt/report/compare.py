"""Several runs side by side: scores, their differences, and what differs in how the runs were made."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core import terminal
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Run
from diffadapt.metrics.classification import TOP1
from diffadapt.report.mask import masked
from diffadapt.report.own.collapsed import collapsed_sentences
from diffadapt.report.page import load_page, style_sheet
from diffadapt.report.provenance import flatten, shown
from diffadapt.report.summary import MethodSummary, Summary, difference, metrics, summarise
from diffadapt.report.table import DASH, clean_text, table_style, to_text

ABSENT = "(absent)"


@dataclass(frozen=True)
class ComparedRow:
    """One method: its mean in every run ('-' where absent) and, from the second run on, the difference to the
    first."""

    method: str
    control: bool
    means: list[str]
    deltas: list[str]
    spread: str


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` prints. ``fields`` and ``versions``: (dotted name, the value in every run)."""

    metric: str
    labels: list[str]
    names: list[str]
    rows: list[ComparedRow]
    fields: list[tuple[str, list[str]]]
    versions: list[tuple[str, list[str]]]
    remarks: list[str]


def comparison(runs: Sequence[Run]) -> Comparison:
    """Compare two or more runs by the first metric of the first one. RecipeError for fewer; StoreError for
    unfinished ones."""
    if len(runs) < 2:
        raise RecipeError(
            "A comparison needs at least two runs: name them, e.g. `diffadapt compare RUN_A RUN_B`;"
            " `diffadapt status` lists the runs."
        )
    if len(runs) > len(string.ascii_uppercase):
        raise RecipeError(
            f"A comparison takes at most {len(string.ascii_uppercase)} runs and was given {len(runs)}."
        )
    manifests = [run.manifest() for run in runs]
    scores = [run.scores() for run in runs]
    metric = next(iter(metrics(scores[0])), TOP1.name)
    tables = [summarise(s, metric) for s in scores]
    fields = _fields(manifests)
    only_seed = bool(fields) and all(name.split(".")[-1] == "seed" for name, _ in fields)
    remarks: list[str] = []
    rows = [
        _row(method, tables, only_seed, remarks)
        for method in dict.fromkeys(r.method for t in tables for r in t.rows)
    ]
    rows.sort(key=lambda r: r.control)
    if any(not r.whole for t in tables for r in t.rows if r.mean is not None):
        remarks.append("* at a mean: not all images or corruptions of the run's target.")
    if not fields:
        remarks.append("No identity field differs: the runs were asked for the same work.")
    if only_seed:
        remarks.append(
            f"The runs differ in their seed only: s.d. is the standard deviation over these {len(runs)}"
            " seeds."
        )
    for label, run in zip(string.ascii_uppercase, runs, strict=False):
        remarks += [f"{label}: {sentence}" for sentence in collapsed_sentences(run)]
    versions = _differing([m.get("versions") or {} for m in manifests])
    return Comparison(
        metric,
        list(string.ascii_uppercase[: len(runs)]),
        [r.name for r in runs],
        rows,
        fields,
        versions,
        list(dict.fromkeys(remarks)),
    )


def compare(runs: Sequence[Run], *, width: int | None = None, colour: bool | None = None) -> str:
    """The comparison as text for a terminal."""
    found = comparison(runs)
    colour = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    names = [f"{label}  {clean_text(name)}" for label, name in zip(found.labels, found.names, strict=True)]
    parts = ["\n".join(names), to_text([_scores(found, colour)], width, colour, found.remarks)]
    for title, entries in (
        ("identity fields that differ", found.fields),
        ("versions that differ", found.versions),
    ):
        if entries:
            parts.append(to_text([_listing(title, entries, found.labels, colour)], width, colour))
    return "\n".join(parts)


def _scores(found: Comparison, colour: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(**table_style(colour))
    table.add_column("method", overflow="fold", min_width=12)
    spread = any(r.spread for r in found.rows)
    for name in [*found.labels, *(f"{x}-{found.labels[0]}" for x in found.labels[1:]), *(["s.d."] * spread)]:
        table.add_column(name, justify="right", no_wrap=True, min_width=5)
    for i, row in enumerate(found.rows):
        if row.control and (i == 0 or not found.rows[i - 1].control):
            table.add_section()
            table.add_row(Text("controls", style="italic"))
        table.add_row(
            *(Text(clean_text(v)) for v in (row.method, *row.means, *row.deltas, *([row.spread] * spread)))
        )
    return table


def _listing(
    title: str, entries: Sequence[tuple[str, list[str]]], labels: Sequence[str], colour: bool
) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(**table_style(colour))
    for name in (title, *labels):
        table.add_column(name, overflow="fold")
    for name, values in entries:
        table.add_row(*(Text(clean_text(v)) for v in (name, *values)))
    return table


def compare_html(runs: Sequence[Run]) -> str:
    """The comparison as one self-contained page."""
    return load_page("compare.html.j2").render(style=style_sheet(), found=comparison(runs))


def _row(method: str, tables: Sequence[Summary], only_seed: bool, remarks: list[str]) -> ComparedRow:
    rows = [next((r for r in t.rows if r.method == method), None) for t in tables]
    first, metric = rows[0], tables[0].metric
    deltas = [_delta(r, first, metric, remarks) for r in rows[1:]]
    present = [r for r in rows if r]
    means = [r.mean for r in present if r.mean is not None]
    spread = ""
    if only_seed and len(means) == len(rows):
        middle = sum(means) / len(means)
        spread = f"{math.sqrt(sum((m - middle) ** 2 for m in means) / (len(means) - 1)):.2f}"
    return ComparedRow(present[0].title, present[0].control, [_mean(r) for r in rows], deltas, spread)


def _mean(row: MethodSummary | None) -> str:
    return DASH if row is None or row.mean is None else f"{row.mean:.1f}" + ("" if row.whole else "*")


def _delta(row: MethodSummary | None, first: MethodSummary | None, metric: str, remarks: list[str]) -> str:
    d = difference(row, first, metric) if row and first else None
    if d is None:
        return ""
    like = d.same_images and d.groups == max(len(row.cells), len(first.cells))
    if not like:
        remarks.append(
            "* at a difference: not the same images or corruptions in both runs; it is over what both have."
        )
    return f"{d.value:+.1f}" + ("" if like else "*")


def _fields(manifests: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Config first, then what only stages know (versions, weight revisions, data fingerprints), without
    repeating it."""
    heads = [
        masked(
            {
                "recipe": m.get("recipe"),
                "seed": m.get("seed"),
                "class_names": m.get("class_names"),
                **(m.get("config") or {}),
            }
        )
        for m in manifests
    ]
    fields = _differing(heads)
    shown = {(name.split(".")[-1], tuple(values)) for name, values in fields}
    stages = []
    for m in manifests:
        stages.append(
            masked(
                {
                    "nodes": {
                        n: {k: i.get(k) for k in ("kind", "version", "identity", "revisions")}
                        for n, i in (m.get("nodes") or {}).items()
                    }
                }
            )
        )
    names = [set(s["nodes"]) for s in stages]
    for node in sorted(set.union(*names) - set.intersection(*names)):
        fields.append((f"nodes.{node}", ["present" if node in n else ABSENT for n in names]))
    common = set.intersection(*names)
    for name, values in _differing(
        [{"nodes": {n: v for n, v in s["nodes"].items() if n in common}} for s in stages]
    ):
        key = (name.split(".")[-1], tuple(values))
        if key not in shown:
            shown.add(key)
            fields.append((name.replace(".identity.", "."), values))
    return fields


def _differing(trees: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    flat = [flatten(t) for t in trees]
    out = []
    for name in dict.fromkeys(n for f in flat for n in f):
        values = [shown(f[name]) if name in f else ABSENT for f in flat]
        if len(set(values)) > 1:
            out.append((name, values))
    return out

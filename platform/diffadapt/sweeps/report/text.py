"""The table of a sweep for a terminal: the best settings, what became of the rest, and what is
recommended."""

from __future__ import annotations

from typing import Any

from diffadapt.core import terminal
from diffadapt.core.units import hours_text
from diffadapt.report.table import clean_text, table_style, to_text
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.recommend import why
from diffadapt.sweeps.report.view import View, view

SHOWN = 10
ERRORS = 5


def sweep_text(sweep: Sweep, *, width: int | None = None, colour: bool | None = None) -> str:
    """The best settings as a table for the terminal, notes under it; of a sweep that has not finished what
    there is."""
    coloured: bool = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    result = view(sweep)
    return to_text([_table(result, coloured)] if result.settings else [], width, coloured, notes_of(result))


def _table(v: View, colour: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(**table_style(colour))
    for axis in v.columns:
        table.add_column(
            clean_text(axis.label),
            justify="right" if axis.numeric else "left",
            overflow="fold",
            min_width=min(8, len(axis.label)),
        )
    if not v.columns:
        table.add_column("setting")
    ranked = any(s.rank is not None for s in v.settings)
    hours = any(s.hours is not None for s in v.settings)
    names = (
        ["rank"] * ranked
        + [clean_text(v.title(m)) for m in v.metrics]
        + ["trials"] * v.repeats
        + [v.hours] * hours
    )
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for s in v.settings[:SHOWN]:
        cells = [a.text(s.first.values.get(a.name)) for a in v.columns] or [v.setting_text(s.first)]
        cells += ["-" if s.rank is None else f"{s.rank:.2f}"] * ranked + [
            v.number(m, *v.summary(s.trials, m)) for m in v.metrics
        ]
        cells += [f"{len(s.trials)}" + ("" if s.complete else " *")] * v.repeats + [
            hours_text(s.hours)
        ] * hours
        table.add_row(*(Text(clean_text(c)) for c in cells), style="bold" if s is v.best and colour else "")
    return table


def notes_of(v: View) -> list[str]:
    """What stands under the table: how trials ended, why some failed, what is recommended."""
    notes = []
    if v.oracle:
        notes.append(
            "ORACLE: target labels judged the trials; these are upper bounds, not results without labels."
        )
    if v.chosen_by_labels:
        notes.append(f"ORACLE: in {v.chosen_by_labels} trials target labels chose the epoch.")
    if len(v.settings) > SHOWN:
        notes.append(f"{len(v.settings) - SHOWN} more settings are in the report and in sweep.parquet.")
    if v.repeats:
        notes.append(
            ("mean over benchmarks and seeds" if len(v.recipes) > 1 else "mean over seeds")
            + (
                "; ±: standard deviation over the seeds (n - 1)"
                if any(s.spread is not None for s in v.settings)
                else ""
            )
        )
    notes += [v.about_diversity] if v.about_diversity else []
    if any(not s.complete for s in v.settings):
        notes.append(
            "* a benchmark is missing, or more than half of the trials that others have: not recommended."
        )
    missing = v.planned - sum(v.counts.values())
    notes.append(f"trials: {v.ended or 'none has ended'}" + (f", {missing} open" if missing > 0 else ""))
    if not v.finished:
        notes.append(
            f"The sweep has not finished (recorded state: {v.status.get('state', 'unknown')}): this is what"
            " there is; the same command goes on."
        )
    notes += [v.population] if v.population else []
    errors = list(dict.fromkeys(r.error for r in v.results if r.status == "failed" and r.error))
    notes += [f"failed: {clean_text(e)}" for e in errors[:ERRORS]] + (
        [f"{len(errors) - ERRORS} more reasons are in the report."] if len(errors) > ERRORS else []
    )
    if v.best:
        notes.append(f"recommended: {clean_text(v.setting_text(v.best.first))} ({why(v.settings)})")
    else:
        notes.append("Nothing can be recommended: no trial has finished.")
    return notes

"""What can be guessed of the accuracy of the run's rows without a label of the target, and how far such
guesses were off where labels are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from diffadapt.core import terminal
from diffadapt.metrics.unlabelled_accuracy import AGREEMENT, ATC, KNOWN
from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section
from diffadapt.report.table import clean_text, table_style, to_text

FILE = "without_labels.json"
"""The guesses, in the run's folder."""
GUESSES = (ATC, AGREEMENT)


class WithoutLabels(Section):
    """Guesses of the accuracy beside their error."""

    title = "Accuracy guessed without labels"

    def data(self, page: Page) -> Any:
        return masked(optional_json(page.run, FILE)) or None

    def html(self, data: Any) -> str:
        head, rows = table(data)
        return Markup(
            load_page("without_labels.html.j2").render(
                head=head, rows=rows, errors=errors(data), missing=missing(data)
            )
        )


def table(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows as text; guesses whose error is not known are left out."""
    shown = [
        g for g in GUESSES if any(k.guess == g for k in KNOWN) and any(r[g] is not None for r in data["rows"])
    ]
    if not shown:
        return [], []
    true = any(r["true"] is not None for r in data["rows"])
    head = ["row", *shown, *(["by the data's labels"] if true else [])]
    rows = []
    for r in data["rows"]:
        values = [r[g] for g in shown]
        if any(v is not None for v in values):
            name = f"{r['row']} ({r['group']})" if r["group"] else r["row"]
            cells = [*values, *([r["true"]] if true else [])]
            rows.append([name, *("-" if v is None else f"{v:.1f}" for v in cells)])
    return head, rows


def errors(data: Mapping[str, Any]) -> list[str]:
    """How far the shown guesses were off, a sentence for each."""
    head, _ = table(data)
    return [
        f"{k.guess}: on {k.rows} rows of {k.runs} it was off by {k.error:.1f} points in the mean and by"
        f" {k.worst:.1f} at"
        f" most ({'too high' if k.bias > 0 else 'too low'} by {abs(k.bias):.1f} in the mean): a guess, not"
        f" a measurement"
        for k in KNOWN
        if k.guess in head
    ]


def missing(data: Mapping[str, Any]) -> list[str]:
    """What the run lacks for a guess."""
    return [f"Left out: {clause}." for clause in data["missing"]]


def as_text(data: Mapping[str, Any], *, width: int | None = None, colour: bool | None = None) -> str:
    """The section for a terminal."""
    from rich.table import Table

    coloured = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    head, rows = table(data)
    tables = [Table(**table_style(coloured))] if rows else []
    for built in tables:
        for i, name in enumerate(head):
            built.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in rows:
            built.add_row(*map(clean_text, row))
    return to_text(tables, width, coloured, [*errors(data), *missing(data)])

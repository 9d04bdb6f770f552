"""What a terminal shows of a run of Adapt Anything whose target has no labels: validators and the split
instead of accuracy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from typing import Any

from diffadapt.core.runs import Run
from diffadapt.report.table import clean_text, table_style, to_text
from diffadapt.systems.adapt_anything.report import first_split, validators


def unlabelled_text(
    run: Run, manifest: Mapping[str, Any], *, width: int | None = None, colour: bool | None = None
) -> str:
    """The table of label-free validators, and what they cannot say."""
    colour = sys.stdout.isatty() if colour is None else colour
    width = width or shutil.get_terminal_size((100, 24)).columns
    notes = ["The target has no labels, so no accuracy is known."]
    if split := first_split(run, manifest):
        per_class = split.get("per_class") or {}
        notes.append(
            f"Before stage 2, {sum(n > 0 for n, _ in per_class.values())} of {len(per_class)} classes are"
            f" predicted, with mean confidence {split.get('mean_confidence', 0):.2f};"
            f" {split.get('confident', 0)} of {split.get('images', 0)} images count as confident."
        )
    known = validators(run, manifest)
    if not known["rows"]:
        return to_text([], width, colour, notes)
    notes.append("Validators: higher is better, and only models of this run can be compared.")
    return to_text([_table(known, colour)], width, colour, notes)


def _table(known: Mapping[str, Any], colour: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(**table_style(colour))
    table.add_column("label-free", overflow="fold", min_width=12)
    for name in known["names"]:
        table.add_column(clean_text(name), justify="right", no_wrap=True)
    for title, values in known["rows"]:
        table.add_row(
            Text(clean_text(title)), *(Text(text, style="bold" if best else "") for text, best in values)
        )
    return table

"""The score table: for a terminal, and as plain values for the HTML report."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diffadapt.core import terminal
from diffadapt.core.record import Score
from diffadapt.metrics import metric
from diffadapt.report.summary import (
    Difference,
    MethodSummary,
    Summary,
    difference,
    group_label,
    metrics,
    summarise,
)

SHORT = {
    "gaussian_noise": "gauss",
    "shot_noise": "shot",
    "impulse_noise": "impul",
    "defocus_blur": "defoc",
    "glass_blur": "glass",
    "motion_blur": "motn",
    "zoom_blur": "zoom",
    "brightness": "brigh",
    "contrast": "contr",
    "elastic_transform": "elast",
    "pixelate": "pixel",
    "jpeg_compression": "jpeg",
    "watermark": "mark",
}
DASH = "-"
DIFFERENT = "*"
"""Marks a difference between rows that do not count the same images or groups."""


@dataclass(frozen=True)
class TableRow:
    """One row, formatted. ``cells``: a dict a group with ``text``, ``value`` (None where absent) and
    ``title``."""

    method: str
    control: bool
    mean: str
    error: str
    deviation: str
    delta: str
    delta_sign: int
    clean: str
    images: str
    whole: bool
    note: str
    best: bool
    cells: list[dict[str, Any]] = field(default_factory=list)


def score_table(
    scores: Sequence[Score],
    *,
    width: int | None = None,
    colour: bool | None = None,
    notes_first: bool = False,
) -> str:
    """The table of each metric as text; with colours on a terminal, plain ASCII elsewhere. ``notes_first``:
    its notes above it, so that the rows come last.

    Columns: method, mean over groups and seeds, binomial standard error, standard deviation over seeds,
    difference to Source (or what stands in its place), clean accuracy, images used; then a column a group
    when ``width`` (default: the terminal's, 100 elsewhere) allows.
    """
    colour = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    if not scores:
        return "No scores: the target has no labels, or no method has finished."
    return "\n".join(_one_table(summarise(scores, m), width, colour, notes_first) for m in metrics(scores))


def rows_for_html(table: Summary) -> list[TableRow]:
    """Every row of ``table`` with all groups, in the run's order."""
    source = table.reference
    full = [r for r in table.main if r.whole and r.mean is not None]
    top = max((round(r.mean or 0, 1) for r in full), default=None)
    tops = {g: max((round(r.cells[g].value, 1) for r in full), default=None) for g in table.groups}
    rows = []
    for r in table.rows:
        d = difference(r, source, table.metric) if source and r is not source else None
        best = r in full and round(r.mean or 0, 1) == top and len(full) > 1
        rows.append(
            TableRow(
                r.title,
                r.control,
                _number(r.mean),
                _number(r.standard_error),
                _number(r.deviation),
                _delta(table, r, d),
                0 if d is None else _sign(d.value),
                _number(r.clean.value if r.clean else None),
                r.coverage,
                r.whole,
                _note(r, table),
                best,
                [
                    _cell(table, r, g, source, tops[g] if r in full and len(full) > 1 else None)
                    for g in table.groups
                ],
            )  # fmt: skip
        )
    return rows


def clean_text(text: str) -> str:
    """``text`` on one line without control characters, so that a name cannot steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()


def legend(table: Summary) -> list[str]:
    """The notes that belong under every table of these scores."""
    noun, count = table.group_noun, len(table.groups)
    known = metric(table.metric)
    unit = f"{known.title} in percent" if known.unit == "%" else table.metric
    first = (
        f"{unit}; mean over {count} {noun}, each counted once"
        if count > 1
        else f"{unit} on {group_label(table.groups[0], table.groups)}"
    )
    lines = [
        first
        + (
            "; s.e.: binomial standard error of the mean"
            if any(r.standard_error is not None for r in table.rows)
            else ""
        )
    ]
    if any(r.deviation is not None for r in table.rows):
        lines.append(
            f"{len(table.seeds)} seeds ({', '.join(map(str, table.seeds))}); s.d.: standard deviation of the"
            " mean over the seeds (n - 1)"
        )
    if any(not r.whole for r in table.rows):
        lines.append(
            f"{DIFFERENT} not the same images or {noun} as {table.reference_word}: the difference is not like"
            " for like"
        )
    return lines


def _one_table(table: Summary, width: int, colour: bool, notes_first: bool) -> str:
    rows = rows_for_html(table)
    wide, narrow = _build(table, rows, colour, True), _build(table, rows, colour, False)
    needed = to_text([wide], width, colour, measure=True) if len(table.groups) > 1 else 0
    fits = 0 < needed <= width
    notes = legend(table)
    if needed > width:
        notes.append(
            f"the {len(table.groups)} {table.group_noun} one by one: in report.html, or in a terminal of"
            f" {needed} columns"
        )
    notes += [f"{clean_text(r.method)}: {clean_text(r.note)}" for r in rows if r.note]
    return to_text([wide if fits else narrow], width, colour, notes, notes_first=notes_first)


def to_text(
    tables: Sequence[Any],
    width: int,
    colour: bool,
    notes: Sequence[str] = (),
    *,
    measure: bool = False,
    notes_first: bool = False,
) -> Any:
    """rich tables and indented notes as text of ``width`` columns (more when a table cannot be narrower).

    With ``measure``: the columns that the first table wants. ``notes_first``: the notes stand above.
    """
    from rich.console import Console
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=10_000,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )
    if measure:
        return console.measure(tables[0]).maximum
    console.width = max([width] + [console.measure(t).minimum for t in tables])
    for t in () if notes_first else tables:
        console.print(t)
    for note in notes:
        for line in textwrap.wrap(note, max(width - 2, 20), initial_indent="  ", subsequent_indent="    "):
            console.print(Text(line, style="dim"))
    for t in tables if notes_first else ():
        console.print(t)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def table_style(colour: bool) -> dict[str, Any]:
    """Keyword arguments of a rich table: light lines on a terminal, ASCII dashes elsewhere."""
    from rich import box

    plain = box.Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n", ascii=True)
    return {"box": box.SIMPLE if colour else plain, "pad_edge": False, "padding": (0, 1, 0, 0)}


def _build(table: Summary, rows: list[TableRow], colour: bool, every_group: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    out = Table(**table_style(colour))
    out.add_column("method", overflow="fold", min_width=12)
    has_error, has_clean = any(r.error != DASH for r in rows), table.has_clean
    has_delta = any(r.delta for r in rows)
    has_deviation = any(r.deviation != DASH for r in rows)
    names = (
        ["mean"]
        + ["s.d."] * has_deviation
        + ["s.e."] * has_error
        + [f"-{clean_text(table.reference_word)}"] * has_delta
        + ["clean"] * has_clean
        + ["images"]
    )
    groups = [_short(g, table) for g in table.groups] if every_group else []

    def numbers(r: TableRow) -> list[str]:
        return (
            [r.mean]
            + [r.deviation] * has_deviation
            + [r.error] * has_error
            + [r.delta] * has_delta
            + [r.clean] * has_clean
            + [r.images]
        )

    longest = [max(map(len, column)) for column in zip(names, *map(numbers, rows), strict=True)] + [5] * len(
        groups
    )
    for name, least in zip(names + groups, longest, strict=True):
        out.add_column(name, justify="right", no_wrap=True, min_width=least)

    def add(r: TableRow) -> None:
        values = numbers(r)
        style = {1: "green", -1: "red"}.get(r.delta_sign, "")
        cells = [Text(v, style=style if v == r.delta and r.delta else "") for v in values]
        cells += [Text(c["text"]) for c in r.cells] if every_group else []
        out.add_row(Text(clean_text(r.method), style="bold" if r.best else ""), *cells)

    for r in (r for r in rows if not r.control):
        add(r)
    controls = [r for r in rows if r.control]
    if controls:
        out.add_section()
        out.add_row(Text("controls", style="italic"))
        for r in controls:
            add(r)
    return out


def _short(group: str, table: Summary) -> str:
    corruption, _, severity = group.partition("/")
    several = len({g.partition("/")[2] for g in table.groups}) > 1
    if table.group_noun == "transfers":
        return clean_text(_initials(corruption, [g.partition("/")[0] for g in table.groups]))
    return clean_text(SHORT.get(corruption.partition("(")[0], corruption[:5])) + (severity if several else "")


def _initials(transfer: str, transfers: Sequence[str]) -> str:
    """'A-W' of 'amazon-webcam'; the first four letters of each where the initials would not do."""
    for length in (1, 4, 100):
        short = {t: "-".join(part[:length].capitalize() for part in t.split("-", 1)) for t in transfers}
        if len(set(short.values())) == len(set(transfers)):
            break
    return short[transfer]


def _delta(table: Summary, row: MethodSummary, d: Difference | None) -> str:
    if d is None:
        return ""
    return f"{d.value:+.1f}" + ("" if d.same_images and d.groups == len(table.groups) else DIFFERENT)


def _sign(value: float) -> int:
    return 0 if abs(value) < 0.05 else (1 if value > 0 else -1)


def _cell(
    table: Summary, row: MethodSummary, group: str, source: MethodSummary | None, top: float | None
) -> dict[str, Any]:
    cell = row.cells.get(group)
    if cell is None:
        return {"text": DASH, "value": None, "title": "not measured", "best": False, "lift": 0.0}
    base = source.cells.get(group) if source and source is not row else None
    lift = cell.value - base.value if base else 0.0
    counted = (
        f"{cell.images} images"
        if cell.images >= cell.of_images
        else f"{cell.images} of {cell.of_images} images"
    )
    title = f"{group_label(group, table.groups)}: {cell.value:.2f}, {counted}" + (
        f", {lift:+.1f} to {table.reference_word}" if base else ""
    )
    return {
        "text": f"{cell.value:.1f}",
        "value": cell.value,
        "title": title,
        "best": top is not None and round(cell.value, 1) == top,
        "lift": lift,
    }


def _note(row: MethodSummary, table: Summary) -> str:
    parts = [row.note] if row.note else []
    if row.mean is not None and len(row.cells) < row.of_groups:
        parts.append(f"mean over {len(row.cells)} of {row.of_groups} {table.group_noun}")
    if row.images < row.of_images:
        parts.append(f"{row.coverage} images")
    if row.mean is not None and len(row.seeds) < len(table.seeds):
        parts.append(f"{len(row.seeds)} seed{'s' * (len(row.seeds) != 1)}")
    if row.selection not in ("last", ""):
        parts.append(
            f"model chosen by {'target labels (oracle)' if row.selection == 'oracle' else row.selection}"
        )
    return "; ".join(parts)


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"

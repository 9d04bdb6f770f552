"""Sentences that a score table supports: comparisons of its rows, with their limits, and nothing beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.pipeline import PART, SAME_IMAGES
from diffadapt.core.record import Score
from diffadapt.report.sections import report_of
from diffadapt.report.sentences import against_control, compare, doubt, limits, numbers
from diffadapt.report.summary import MethodSummary, Summary, difference, summarise


def findings(
    scores: Sequence[Score], metric: str | None = None, manifest: Mapping[str, Any] | None = None
) -> list[str]:
    """What the rows show, one sentence an entry; empty when there are no rows. The manifest tells what system
    the run is of and what its rows mean."""
    table = summarise(scores, metric)
    if not any(r.mean is not None for r in table.rows):
        return []
    own = report_of(manifest).findings(table, scores, manifest) if manifest else None
    return row_findings(table) if own is None else own


def row_findings(table: Summary) -> list[str]:
    """Every row that builds on another beside it, every control beside its method, in the words of their
    roles."""
    source, lead = table.reference, table.lead
    steps = [r for r in table.main if r.role.partner]
    if lead and lead not in steps and lead is not source:
        steps.append(lead)
    out: list[str] = []
    for row in steps:
        start = table.partner(row) or (source if row is lead else None)
        if start and start is not row:
            out += compare(table, row, start)
    alike = _like_for_like(table)
    controls = [c for c in table.controls if all(c is not other for _, other in alike)]
    of_others = [
        (row, c) for c in controls if (row := table.partner(c)) and c.role.kind not in (PART, SAME_IMAGES)
    ]
    if lead:
        first = table.partner(lead)
        if first and first is not source:
            out += [s for c in table.controls if c.role.kind == PART for s in compare(table, first, c)]
        base = first if lead.role.partner else source
        for c in controls:
            if all(c is not other for _, other in of_others):
                out += against_control(table, lead, c, base, c.role.otherwise)
        out += _rows_above(table, lead)
    for row, c in of_others:
        out += against_control(table, row, c, source, c.role.otherwise)
    for row, c in alike:
        out += compare(table, row, c)
    out += _rows_below_source(table, source, [*steps, *(row for row, _ in alike)])
    out += _clean(table, source, lead)
    out = list(dict.fromkeys(out))  # a row above the result that is read beside it says so once
    return out + limits(table, {row.method: c for row, c in alike})


def _like_for_like(table: Summary) -> list[tuple[MethodSummary, MethodSummary]]:
    """Each method on fewer images and its control that counts the same images, where there is one."""
    pairs = [(row, c) for c in table.controls if c.role.kind == SAME_IMAGES and (row := table.partner(c))]
    return [(row, c) for row, c in pairs if not row.whole and c.coverage == row.coverage]


def _rows_above(table: Summary, lead: MethodSummary) -> list[str]:
    out = []
    for row in table.main:
        d = difference(row, lead, table.metric) if row is not lead else None
        if d and d.value >= 0.05:
            out.append(
                f"{row.title} is {d.value:.1f} points above {lead.title}"
                f" ({numbers(table, row, lead, d)}).{doubt(d)}"
            )
    return out


def _rows_below_source(
    table: Summary, source: MethodSummary | None, named: Sequence[MethodSummary]
) -> list[str]:
    out = []
    for row in table.main:
        d = (
            difference(row, source, table.metric)
            if source and row is not source and row not in named
            else None
        )
        if source and d and d.value <= -0.05:
            out.append(
                f"{row.title} is {abs(d.value):.1f} points below {source.title}"
                f" ({numbers(table, row, source, d)}).{doubt(d)}"
            )
    return out


def _clean(table: Summary, source: MethodSummary | None, lead: MethodSummary | None) -> list[str]:
    if not (source and lead and source.clean and lead.clean) or lead is source:
        return []
    change = lead.clean.value - source.clean.value
    return [
        f"On clean images {lead.title} has {lead.clean.value:.1f} and {source.title}"
        f" {source.clean.value:.1f}{table.unit} ({change:+.1f} points)."
    ]

"""Sentences that a score table supports: comparisons of its rows, with their limits, and nothing beyond."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.record import Score
from diffadapt.report.ladder import is_adaptation, ladder_findings
from diffadapt.report.sentences import against_control, compare, doubt, limits, numbers
from diffadapt.report.summary import MethodSummary, Summary, difference, summarise
from diffadapt.systems.zodi.findings import is_zodi, zodi_findings

ALONE = r"projection only|projected only|projection alone"
STATISTICS = r"batch[- ]statistics"
CONTROL_KINDS = (
    (STATISTICS, "this run does not show that the gradient step adds to the batch statistics"),
    (
        r"non-?aligned|not aligned|unaligned|without alignment|no alignment",
        "this run does not show that alignment helps",
    ),
    (r"\breal\b", "this run does not show that synthetic images do more than as much training on real ones"),
    (ALONE, "projection alone, without fine-tuning and ensemble, does as well here"),
    (
        r"fine-?tuned model on projected|no ensemble|without ensemble",
        "this run does not show that the ensemble with the source model helps",
    ),
)
"""(pattern of a control's name, else of its note; what it means when the method is not above that control).
"""


def findings(
    scores: Sequence[Score], metric: str | None = None, manifest: Mapping[str, Any] | None = None
) -> list[str]:
    """What the rows show, one sentence an entry; empty when there are no rows. The manifest tells what was
    trained from what."""
    table = summarise(scores, metric)
    if not any(r.mean is not None for r in table.rows):
        return []
    if manifest and is_adaptation(manifest):
        return ladder_findings(table, manifest)
    if manifest and is_zodi(manifest):
        return zodi_findings(scores, metric, manifest)
    source, dda, sda = table.reference, table.role("dda"), table.role("sda")
    partners = _partners(table)
    lead = sda or next((r for r in reversed(table.main) if r is not source), None)
    out: list[str] = []
    if dda and source:
        out += compare(table, dda, source)
    if sda and dda:
        out += compare(table, sda, dda)
    elif lead and source and lead is not dda:
        out += compare(table, lead, source)
    tent = table.role("tent")
    of_tent = [c for c in table.controls if tent and re.search(STATISTICS, c.method.lower())]
    if lead:
        if sda and dda:
            out += [
                s
                for c in table.controls
                if re.search(ALONE, c.method.lower())
                for s in compare(table, dda, c)
            ]
        out += [
            s
            for c in table.controls
            if c not in of_tent and c not in partners.values()
            for s in against_control(table, lead, c, dda if sda else source, _meaning(c))
        ]
        out += _rows_above(table, lead)
    out += [s for c in of_tent for s in against_control(table, tent, c, source, _meaning(c))]
    out += [
        s for method, control in partners.items() for s in compare(table, table.role(method.lower()), control)
    ]
    out += _rows_below_source(table, source, (dda, lead, *(table.role(m.lower()) for m in partners)))
    out += _clean(table, source, lead)
    return out + limits(table, partners)


def _partners(table: Summary) -> dict[str, MethodSummary]:
    """For each method on fewer images: the control that counts the same images, if there is one."""
    found = {}
    for row in table.main:
        if not row.whole:
            for control in table.controls:
                if control.coverage == row.coverage and row.method.lower() in control.method.lower():
                    found[row.method] = control
    return found


def _meaning(control: MethodSummary) -> str:
    for text in (control.method.lower(), control.note.lower()):
        for pattern, meaning in CONTROL_KINDS:
            if re.search(pattern, text):
                return meaning
    return "this run does not show that the method does more than this control"


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


def _rows_below_source(table: Summary, source: MethodSummary | None, named: tuple) -> list[str]:
    if source is None:
        return []
    below = [
        (r, d)
        for r in table.main
        if r is not source
        and r not in named
        and (d := difference(r, source, table.metric))
        and d.value <= -0.05
    ]
    return [
        f"{r.title} is {abs(d.value):.1f} points below {source.title}"
        f" ({numbers(table, r, source, d)}).{doubt(d)}"
        for r, d in below
    ]


def _clean(table: Summary, source: MethodSummary | None, lead: MethodSummary | None) -> list[str]:
    if not (source and lead and source.clean and lead.clean) or lead is source:
        return []
    change = lead.clean.value - source.clean.value
    return [
        f"On clean images {lead.title} has {lead.clean.value:.1f} and {source.title}"
        f" {source.clean.value:.1f}{table.unit} ({change:+.1f} points)."
    ]

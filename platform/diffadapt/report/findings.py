"""Sentences that a score table supports: comparisons of its rows, with their limits, and nothing beyond."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diffadapt.core.record import Score
from diffadapt.report.summary import Difference, MethodSummary, Summary, difference, summarise

ALONE = r"projection only|projected only|projection alone"
STATISTICS = r"batch[- ]statistics"
CONTROL_KINDS = (
    (STATISTICS, "this run does not show that the gradient step adds to the batch statistics"),
    (r"non-?aligned|not aligned|unaligned|without alignment|no alignment", "this run does not show that alignment helps"),
    (r"\breal\b", "this run does not show that synthetic images do more than as much training on real ones"),
    (ALONE, "projection alone, without fine-tuning and ensemble, does as well here"),
    (r"fine-?tuned model on projected|no ensemble|without ensemble", "this run does not show that the ensemble with the source model helps"),
)
"""(pattern of a control's name, else of its note; what it means when the method is not above that control)."""


def findings(scores: Sequence[Score], metric: str | None = None) -> list[str]:
    """What the rows show, one sentence an entry; empty when there are no rows."""
    table = summarise(scores, metric)
    if not any(r.mean is not None for r in table.rows):
        return []
    source, dda, sda = table.role("source"), table.role("dda"), table.role("sda")
    partners = _partners(table)
    lead = sda or next((r for r in reversed(table.main) if r is not source), None)
    out: list[str] = []
    if dda and source:
        out += _compare(table, dda, source)
    if sda and dda:
        out += _compare(table, sda, dda)
    elif lead and source and lead is not dda:
        out += _compare(table, lead, source)
    tent = table.role("tent")
    of_tent = [c for c in table.controls if tent and re.search(STATISTICS, c.method.lower())]
    if lead:
        if sda and dda:
            out += [s for c in table.controls if re.search(ALONE, c.method.lower()) for s in _compare(table, dda, c)]
        out += [s for c in table.controls if c not in of_tent and c not in partners.values() for s in _against_control(table, lead, c, dda if sda else source)]
        out += _rows_above(table, lead)
    out += [s for c in of_tent for s in _against_control(table, tent, c, source)]
    out += [s for method, control in partners.items() for s in _compare(table, table.role(method.lower()), control)]
    out += _rows_below_source(table, source, (dda, lead, *(table.role(m.lower()) for m in partners)))
    out += _clean(table, source, lead)
    return out + _limits(table, partners)


def _partners(table: Summary) -> dict[str, MethodSummary]:
    """For each method on fewer images: the control that counts the same images, if there is one."""
    found = {}
    for row in table.main:
        if not row.whole:
            for control in table.controls:
                if control.coverage == row.coverage and row.method.lower() in control.method.lower():
                    found[row.method] = control
    return found


def _compare(table: Summary, left: MethodSummary, right: MethodSummary) -> list[str]:
    d = difference(left, right, table.metric)
    if d is None:
        return [f"{left.title} and {right.title} have no {table.group_noun} in common, so they are not compared."]
    if abs(d.value) < 0.05:
        word = f"{left.title} equals {right.title} to 0.1 points"
    else:
        word = f"{left.title} is {abs(d.value):.1f} points {'above' if d.value > 0 else 'below'} {right.title}"
    return [f"{word} ({_numbers(table, left, right, d)}).{_doubt(d)}"]


def _numbers(table: Summary, left: MethodSummary, right: MethodSummary, d: Difference) -> str:
    parts = [f"{d.left:.1f} against {d.right:.1f}{_unit(table)}"]
    if d.groups > 1:
        parts.append(f"higher on {d.higher} of {d.groups} {table.group_noun}")
    if d.standard_error is not None:
        parts.append(f"standard error of the difference {d.standard_error:.1f}")
    if d.groups < len(table.groups):
        parts.append(f"only {d.groups} of {len(table.groups)} {table.group_noun} have both")
    if not d.same_images:
        parts.append(f"not the same images: {left.coverage} against {right.coverage}")
    return "; ".join(parts)


def _doubt(d: Difference) -> str:
    if d.standard_error is None or d.separated:
        return ""
    return " That is within two standard errors, so these rows do not tell the two apart."


def _against_control(table: Summary, lead: MethodSummary, control: MethodSummary, base: MethodSummary | None) -> list[str]:
    d = difference(lead, control, table.metric)
    if d is None:
        return [f"{lead.title} and the control {control.title} have no {table.group_noun} in common, so they are not compared."]
    numbers = _numbers(table, lead, control, d)
    meaning = _meaning(control)
    if d.value < 0.05:
        word = f"{abs(d.value):.1f} points below" if d.value <= -0.05 else "no better than"
        return [f"Remark: {lead.title} is {word} the control {control.title} ({numbers}): {meaning}.{_doubt(d) if d.value <= -0.05 else ''}"]
    text = f"{lead.title} is {d.value:.1f} points above the control {control.title} ({numbers}).{_doubt(d)}"
    gain, reached = (difference(r, base, table.metric) if base else None for r in (lead, control))
    if base and gain and reached and gain.same_images and reached.same_images and gain.value > 0.05 and reached.value > 0 and gain.groups == reached.groups:
        text += f" Of the {gain.value:+.1f} points over {base.title}, the control has {reached.value:+.1f}."
    return [text]


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
            out.append(f"{row.title} is {d.value:.1f} points above {lead.title} ({_numbers(table, row, lead, d)}).{_doubt(d)}")
    return out


def _rows_below_source(table: Summary, source: MethodSummary | None, named: tuple) -> list[str]:
    if source is None:
        return []
    below = [(r, d) for r in table.main if r is not source and r not in named and (d := difference(r, source, table.metric)) and d.value <= -0.05]
    return [f"{r.title} is {abs(d.value):.1f} points below {source.title} ({_numbers(table, r, source, d)}).{_doubt(d)}" for r, d in below]


def _clean(table: Summary, source: MethodSummary | None, lead: MethodSummary | None) -> list[str]:
    if not (source and lead and source.clean and lead.clean) or lead is source:
        return []
    change = lead.clean.value - source.clean.value
    return [f"On clean images {lead.title} has {lead.clean.value:.1f} and {source.title} {source.clean.value:.1f}{_unit(table)} ({change:+.1f} points)."]


def _limits(table: Summary, partners: dict[str, MethodSummary]) -> list[str]:
    out = []
    for row in table.rows:
        if not row.whole and row.mean is not None and row not in partners.values():
            groups = f" in {len(row.cells)} of {row.of_groups} {table.group_noun}" if len(row.cells) < row.of_groups else ""
            out.append(f"{row.title} was measured on {row.coverage} images{groups}; its differences to other rows are not like for like{', but for the control ' + partners[row.method].title if row.method in partners else ''}.")
    oracle = [r.method for r in table.rows if r.selection == "oracle"]
    if oracle:
        out.append(f"Target labels chose the model of {', '.join(oracle)} (oracle): such rows are an upper bound, not a result without labels.")
    if len(table.seeds) == 1:
        out.append(f"One seed ({table.seeds[0]}) was run, so the spread between seeds is not measured.")
    elif table.seeds:
        out.append(f"Means are over {len(table.seeds)} seeds ({', '.join(map(str, table.seeds))}).")
    if any(r.standard_error is not None for r in table.rows):
        recur = f" the same pictures recur under all {table.group_noun}, and" if len(table.groups) > 1 else ""
        out.append(f"Standard errors are binomial, from the number of images alone:{recur} the spread of training is not in them.")
    return out


def _unit(table: Summary) -> str:
    return " %" if table.metric == "top1" else ""

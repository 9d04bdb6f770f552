"""What the rows of a ZoDi run show: the method beside the source-only model, its ablations and controls, and
the estimate beside the measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.pipeline import SOURCE
from diffadapt.core.record import Score
from diffadapt.metrics.segmentation import MIOU
from diffadapt.report.roles import roles
from diffadapt.report.sentences import against_control, compare, doubt, limits, numbers
from diffadapt.report.summary import MethodSummary, Summary, difference, summarise

TRANSFERRED_ONLY, BOTH, ZODI, VARIANT = "transferred_only", "both", "zodi", "variant"
"""Kinds of roles beside the source-only model's; a variant is ZoDi on another transfer, as a control."""
ESTIMATE = {MIOU.name: MIOU.on("estimated").name}
"""The metric that estimates another one without a target image."""
HARM = "training on transferred images did harm here"
OTHERWISE = {
    ZODI: "this run does not show that the feature similarity helps",
    BOTH: "this run does not show that the source images help beside their transferred versions",
    VARIANT: "this run does not show that the transfer does more than this control",
}


def methods(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Kind of role -> the name of its main row."""
    result: dict[str, str] = {}
    for name, role in roles(manifest).items():
        if role.kind != VARIANT:
            result.setdefault(role.kind, name)
    return result


def ours(names: Mapping[str, str]) -> str:
    """The row of the method itself: ZoDi, else the training nearest to it."""
    return next((names[m] for m in (ZODI, BOTH, TRANSFERRED_ONLY) if m in names), "")


def zodi_findings(table: Summary, scores: Sequence[Score], manifest: Mapping[str, Any]) -> list[str]:
    """One honest sentence for each comparison that the rows of ``table`` allow."""
    names, known = methods(manifest), roles(manifest)
    rows = {r.method: r for r in table.rows if r.mean is not None}
    base, lead = rows.get(names.get(SOURCE, "")), rows.get(ours(names))
    out: list[str] = []
    if base and lead and lead is not base:
        out += _step(table, lead, base, HARM)
    row = lead
    while row:
        role = known[row.method]
        start = rows.get(role.partner)
        if start:
            out += _step(table, row, start, role.otherwise)
        row = start
    for control in table.controls:
        if lead and control.mean is not None:
            out += against_control(table, lead, control, base, known[control.method].otherwise)
    return out + _estimate(scores, table) + limits(table, {})


def _step(table: Summary, row: MethodSummary, start: MethodSummary, harm: str) -> list[str]:
    """``row`` beside ``start``; a remark that ends in ``harm`` where it is not above."""
    d = difference(row, start, table.metric)
    if d is None or d.value >= 0.05:
        return compare(table, row, start)
    word = f"{-d.value:.1f} points below" if d.value <= -0.05 else "no better than"
    ending = "." if harm is HARM and (doubt(d) or d.value > -0.05) else f": {harm}."
    return [
        f"Remark: {row.title} is {word} {start.title} ({numbers(table, row, start, d)}){ending}{doubt(d)}"
    ]


def _estimate(scores: Sequence[Score], table: Summary) -> list[str]:
    """How far the estimate without target images is from what was measured."""
    other = ESTIMATE.get(table.metric, "")
    guessed = (
        {r.method: r for r in summarise(scores, other).rows if r.mean is not None}
        if any(s.metric == other for s in scores)
        else {}
    )
    pairs = [(r, guessed[r.method]) for r in table.rows if r.mean is not None and r.method in guessed]
    if not pairs:
        return []
    gaps = [e.mean - r.mean for r, e in pairs]  # type: ignore[operator]
    listed = ", ".join(f"{r.title} {e.mean:.1f} against {r.mean:.1f}" for r, e in pairs)
    way = "above" if min(gaps) >= 0 else "below" if max(gaps) <= 0 else "off"
    span = " to ".join(dict.fromkeys(f"{f(map(abs, gaps)):.1f}" for f in (min, max)))
    text = (
        f"The estimate without any target image is {span} points {way} what was measured on the target"
        f" (estimated against measured: {listed})"
    )
    if len(pairs) < 2:
        return [text + "."]
    best, chosen = max(pairs, key=lambda p: p[0].mean or 0), max(pairs, key=lambda p: p[1].mean or 0)
    right, wrong = "names the same row as the best one", "would have chosen another row than the best one"
    return [f"{text}; it {right if chosen is best else wrong}."]

"""What the rows of a run of Adapt Anything show: the steps (source only, stage 1, stage 2), their controls
and the zero-shot baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.pipeline import SOURCE, Role
from diffadapt.report.roles import named, roles
from diffadapt.report.sentences import against_control, compare, doubt, limits, numbers
from diffadapt.report.summary import MethodSummary, Summary, difference
from diffadapt.systems.adapt_anything.roles import CLIP_TAUGHT, DIRECT, STAGE1, STAGE2, UNFILTERED, ZERO_SHOT

ONE_BY_ONE = 3
"""Methods of stage 1 up to which each has a sentence of its own."""


@dataclass(frozen=True)
class Ladder:
    """Names of score rows by their place, from their roles."""

    roles: Mapping[str, Role]

    @property
    def base(self) -> str:
        return next(iter(named(self.roles, SOURCE)), "")

    @property
    def stage1(self) -> tuple[str, ...]:
        return named(self.roles, STAGE1)

    @property
    def stage2(self) -> tuple[str, ...]:
        return named(self.roles, STAGE2)

    @property
    def zero_shot(self) -> str:
        return next(iter(named(self.roles, ZERO_SHOT)), "")

    @property
    def direct(self) -> tuple[str, ...]:
        """Controls: stage 2 straight from the source-only model."""
        return named(self.roles, DIRECT)

    @property
    def clip_taught(self) -> tuple[str, ...]:
        """Controls: stage 2 from CLIP's pseudo-labels, of a network that has seen no source."""
        return named(self.roles, CLIP_TAUGHT)

    @property
    def unfiltered(self) -> dict[str, str]:
        """Controls trained on all synthetic images -> the row that the filters chose images for."""
        return {n: self.roles[n].partner for n in named(self.roles, UNFILTERED)}

    @property
    def starts(self) -> dict[str, str]:
        """A row of stage 2 -> the row of the model that it started from."""
        return {
            **{n: self.roles[n].partner for n in self.stage2},
            **dict.fromkeys(self.direct, self.base),
            **dict.fromkeys(self.clip_taught, self.zero_shot),
        }

    @property
    def result(self) -> str:
        """The run's last main step."""
        return next(iter([*reversed(self.stage2), *reversed(self.stage1), self.base]))


def ladder(manifest: Mapping[str, Any]) -> Ladder:
    """The run's rows by their place."""
    return Ladder(roles(manifest))


def ladder_findings(table: Summary, manifest: Mapping[str, Any]) -> list[str]:
    """What the rows show of each step: one honest sentence each, controls and the zero-shot baseline
    included."""
    steps = ladder(manifest)
    rows = {r.method: r for r in table.rows if r.mean is not None}
    base, result = rows.get(steps.base), rows.get(steps.result)
    out: list[str] = []
    for stage in (steps.stage1, steps.stage2):
        starts = {n: rows.get(steps.starts.get(n, steps.base)) for n in stage if n in rows}
        harm = next((steps.roles[n].otherwise for n in starts), "")
        out += _steps(table, [(rows[n], start) for n, start in starts.items() if start], harm)
    for name in (*steps.direct, *steps.unfiltered, *steps.clip_taught):
        role, gain = steps.roles[name], base if name in steps.direct else None
        if name in rows and role.partner in rows:
            out += against_control(table, rows[role.partner], rows[name], gain, role.otherwise)
    zero_shot = rows.get(steps.zero_shot)
    if zero_shot and result and result is not zero_shot:
        out += _beside_zero_shot(table, result, zero_shot)
    return out + limits(table, {})


def _steps(table: Summary, pairs: Sequence[tuple[MethodSummary, MethodSummary]], harm: str) -> list[str]:
    """A sentence for each pair (row, the row it started from), or two in all when there are many."""
    found = [(row, start, d) for row, start in pairs if (d := difference(row, start, table.metric))]
    if len(found) <= ONE_BY_ONE:
        out = []
        for row, start, d in found:
            (sentence,) = compare(table, row, start)
            if d.value <= -0.05:
                ending = "." if doubt(d) else f": {harm}."
                sentence = (
                    f"Remark: {row.title} is {-d.value:.1f} points below {start.title}"
                    f" ({numbers(table, row, start, d)}){ending}{doubt(d)}"
                )
            out.append(sentence)
        return out
    out = []
    for word, chosen, remark in (
        ("above", [f for f in found if f[2].value >= 0.05], ""),
        ("not above", [f for f in found if f[2].value < 0.05], "Remark: "),
    ):
        if chosen:
            listed = ", ".join(
                f"{row.title}"
                f" {d.value:+.1f}{'' if d.separated or d.standard_error is None else ' (not told apart)'}"
                for row, _, d in chosen
            )
            starts = {start.title for _, start, _ in chosen}
            out.append(
                f"{remark}{len(chosen)} of {len(found)} methods are {word}"
                f" {starts.pop() if len(starts) == 1 else 'what they started from'}: {listed} points."
            )
    return out


def _beside_zero_shot(table: Summary, result: MethodSummary, zero_shot: MethodSummary) -> list[str]:
    d = difference(zero_shot, result, table.metric)
    if d and d.value >= 0.05:
        return [
            f"Remark: {zero_shot.title}, which was trained on nothing here, is {d.value:.1f} points above"
            f" {result.title} ({numbers(table, zero_shot, result, d)}).{doubt(d)}"
        ]
    return compare(table, result, zero_shot)

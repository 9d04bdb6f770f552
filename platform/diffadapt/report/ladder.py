"""The steps of Adapt Anything (source only, stage 1, stage 2, their controls) as a run's graph tells them,
and what their scores show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffadapt.report.sentences import against_control, compare, doubt, limits, numbers
from diffadapt.report.summary import MethodSummary, Summary, difference

SOURCE_ONLY = "source_only"
ONE_BY_ONE = 3
"""Methods of stage 1 up to which each has a sentence of its own."""
DIRECT = "this run does not show that stage 1 adds anything to stage 2"
UNFILTERED = "this run does not show that the filters help"


@dataclass(frozen=True)
class Ladder:
    """Names of score rows by their place. ``starts``: a stage-2 row -> the row of the model that it started
    from."""

    base: str = ""
    stage1: tuple[str, ...] = ()
    stage2: tuple[str, ...] = ()
    starts: Mapping[str, str] = field(default_factory=dict)
    ssl_methods: Mapping[str, str] = field(default_factory=dict)
    zero_shot: str = ""
    direct: tuple[str, ...] = ()
    """Controls: stage 2 straight from the source-only model."""
    unfiltered: Mapping[str, str] = field(default_factory=dict)
    """Controls trained on all synthetic images -> the row that the filters chose images for."""

    @property
    def result(self) -> str:
        """The run's last main step."""
        return next(iter([*reversed(self.stage2), *reversed(self.stage1), self.base]))


def is_adaptation(manifest: Mapping[str, Any]) -> bool:
    """Whether the run is of Adapt Anything or one of its benchmarks."""
    return {"uda", "ssl"} <= set(manifest.get("config") or {})


def ladder(manifest: Mapping[str, Any]) -> Ladder:
    """The run's rows by their place, read off its graph."""
    nodes = manifest.get("nodes") or {}
    by_model: dict[str, str] = {}
    places: dict[str, list[str]] = {"stage1": [], "stage2": [], "direct": [], "base": [], "zero_shot": []}
    starts, methods, plain, unfiltered = {}, {}, {}, {}
    for row in manifest.get("rows") or ():
        name, node = row["name"], (row["members"] or [""])[0]
        model = _parent(nodes, node, ("uda", "ssl"))
        kind = nodes.get(model, {}).get("kind", "")
        if nodes.get(node, {}).get("kind") == "zero-shot":
            place = "zero_shot"
        elif kind == "ssl":
            start = _parent(nodes, model, ("uda", "ssl"))
            starts[name] = by_model.get(start, "")
            methods[name] = _method(nodes[model])
            place = "direct" if row.get("control") else "stage2"
        elif kind == "uda" and not row.get("control"):
            method = _method(nodes[model])
            plain[method] = name
            place = "base" if method == SOURCE_ONLY else "stage1"
        else:
            if kind == "uda":
                unfiltered[name] = _method(nodes[model])
            continue
        by_model.setdefault(model, name)
        if name not in places[place]:
            places[place].append(name)
    return Ladder(
        next(iter(places["base"]), ""),
        tuple(places["stage1"]),
        tuple(places["stage2"]),
        starts,
        methods,
        next(iter(places["zero_shot"]), ""),
        tuple(places["direct"]),
        {control: plain[method] for control, method in unfiltered.items() if method in plain},
    )


def ladder_findings(table: Summary, manifest: Mapping[str, Any]) -> list[str]:
    """What the rows show of each step: one honest sentence each, controls and the zero-shot baseline
    included."""
    steps = ladder(manifest)
    rows = {r.method: r for r in table.rows if r.mean is not None}
    base, result = rows.get(steps.base), rows.get(steps.result)
    out = _steps(
        table,
        [(rows[n], base) for n in steps.stage1 if n in rows and base],
        "stage 1 did harm here (negative transfer)",
    )
    second = [(rows[n], rows[steps.starts[n]]) for n in steps.stage2 if n in rows and steps.starts[n] in rows]
    out += _steps(table, second, "stage 2 did harm here: it trains on stage 1's mistakes")
    for control in (rows[n] for n in steps.direct if n in rows):
        for lead in (
            rows[n]
            for n in steps.stage2
            if n in rows and steps.ssl_methods[n] == steps.ssl_methods[control.method]
        ):
            out += against_control(table, lead, control, base, DIRECT)
    for name, partner in steps.unfiltered.items():
        if name in rows and partner in rows:
            out += against_control(table, rows[partner], rows[name], None, UNFILTERED)
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
                told = "." if doubt(d) else f": {harm}."
                sentence = (
                    f"Remark: {row.title} is {-d.value:.1f} points below {start.title}"
                    f" ({numbers(table, row, start, d)}){told}{doubt(d)}"
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


def _parent(nodes: Mapping[str, Any], node: str, kinds: Sequence[str]) -> str:
    """The last input of ``node`` that is of one of ``kinds``; empty when there is none."""
    return next(
        (
            i
            for i in reversed(nodes.get(node, {}).get("inputs") or ())
            if nodes.get(i, {}).get("kind") in kinds
        ),
        "",
    )


def _method(node: Mapping[str, Any]) -> str:
    """The method that a fit's identity names."""
    identity = node.get("identity") or {}
    found = [identity.get("method"), *(v.get("method") for v in identity.values() if isinstance(v, Mapping))]
    return next((str(m) for m in found if m), "")

"""The result of an audit as sentences, for a terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core import terminal
from diffadapt.metrics import metric
from diffadapt.report.table import clean_text, table_style, to_text

FILE = "audit.json"
"""The last result of an audit, in the run's folder."""
PAIRS = 12
"""Pairs that are named."""


def text(result: Mapping[str, Any], *, width: int | None = None, colour: bool | None = None) -> str:
    """The table of the rows and what follows from it."""
    from rich.table import Table
    from rich.text import Text

    coloured = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    table = Table(**table_style(coloured))
    for i, name in enumerate(columns(result)):
        table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    for row in result["rows"]:
        table.add_row(
            *(Text(clean_text(c), style="dim" if row["control"] else "") for c in cells(result, row))
        )
    return to_text([table], width, coloured, [*notes(result), *findings(result)])


def columns(result: Mapping[str, Any]) -> list[str]:
    """Heads of the table."""
    return ["row", "accuracy", f"{result['level']} % interval", "from the labels alone", "labels"] + (
        ["by the data's labels"] if any(r["true"] is not None for r in result["rows"]) else []
    )


def cells(result: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """One row of the table."""
    true = [f"{row['true']:.1f}" if row["true"] is not None else "-"]
    true = true if len(columns(result)) > 5 else []
    if row["value"] is None:
        return [row["row"], "-", "too few labels", "-", str(row["labels"]), *true]
    span = f"{row['low']:.1f} to {row['high']:.1f}"
    alone = f"{row['alone']:.1f} ({row['alone_low']:.1f} to {row['alone_high']:.1f})"
    return [row["row"], f"{row['value']:.1f}", span, alone, str(row["labels"]), *true]


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the numbers are."""
    what = "these images" if result["finite"] else "further images of the same domain"
    out = [
        f"top-1 accuracy in percent on {what} ({result['images']:,}), from {result['labels']} labels of"
        f" {result['chosen']} chosen images in {result['strata']} strata, by prediction-powered inference"
        f" (PPI++)"
    ]
    if result["missing"]:
        out.append(
            f"{result['missing']} of the {result['chosen']} chosen images have no label yet: the intervals"
            f" become"
            " narrower with them"
        )
    if result["unclear"]:
        moved = [r for r in result["rows"] if r["value"] is not None]
        fall, rise = max(r["fall"] for r in moved), max(r["rise"] for r in moved)
        out.append(
            f"{result['unclear']} image{'s' * (result['unclear'] != 1)} could not be told, counted as the"
            " others of their stratum; if a row were wrong or right on all of them, its accuracy would be"
            " up to"
            f" {fall:.1f} lower or {rise:.1f} higher"
        )
    if len(groups := result.get("groups") or ()) > 1:
        fewest = min(r["labels"] for r in result["rows"])
        out.append(
            f"the labels are spread over the targets of {len(groups)} transfers, {fewest} for the fewest; an"
            f" audit of one has all of its labels there: --transfer {groups[0]}"
        )
    others = {r["metric"] for r in result["rows"]} - {"top1"}
    if others:
        out.append(
            f"the run is scored by {' and '.join(metric(m).title for m in sorted(others))}, which is no"
            f" mean over"
            " images: the audit gives top-1"
        )
    if result.get("rehearsed"):
        out.append("a rehearsal: the labels are those of the data, nobody looked at the images")
    elif result["labelled"]:
        out.append(
            "the data have labels of their own, so the accuracies by these stand beside"
            + (
                f"; {result['wrong_labels']} of your {result['labels']} labels differ from them"
                if result["wrong_labels"]
                else "; all of yours agree with them"
            )
        )
    return out + [f"left out: {clause}" for clause in result["left_out"]]


def findings(result: Mapping[str, Any]) -> list[str]:
    """Which rows can be told apart, and what the validators chose."""
    return [*apart(result["pairs"], result["level"]), *chosen(result["validators"]), *balance(result)]


def apart(pairs: Sequence[Mapping[str, Any]], level: int) -> list[str]:
    """Which rows can be told apart."""
    if not pairs:
        return []
    sure = sorted((p for p in pairs if p["apart"]), key=lambda p: p["adjusted"])
    few = sum(1 for p in pairs if p["low"] is None)
    alike = sum(1 for p in pairs if not p["differ"])
    total = f"{len(sure)} of {len(pairs)} pairs of rows can be told apart" + (
        f" (Holm's correction for all pairs: at most {100 - level} % risk of one false claim among them)"
    )
    out = [total]
    out += [
        f"{p['first']} is above {p['second']} by {p['value']:.1f} ({p['low']:.1f} to {p['high']:.1f}); they"
        f" differ"
        f" on {p['differ']:,} of {p['images']:,} images, {p['labels']} of them labelled"
        for p in sure[:PAIRS]
    ]
    if len(sure) > PAIRS:
        out.append(f"and {len(sure) - PAIRS} pairs more")
    if few:
        out.append(f"of {few} pairs too few images on which they differ are labelled to say anything")
    if alike:
        out.append(f"{alike} pairs answer alike on every image")
    return out


def chosen(validators: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the label-free validators chose well, a sentence each."""
    said = []
    for v in validators:
        if v["row"] == v["best"]:
            said.append(
                f"the validator {v['validator']} chooses {v['row']}, which has the best estimate: well"
            )
            continue
        start = f"the validator {v['validator']} chooses {v['row']}; {v['best']} has the best estimate"
        if v["low"] is None:
            said.append(
                f"{start}, and too few images on which they differ are labelled to say which is better"
            )
            continue
        span = f"{v['value']:.1f} above it ({v['low']:.1f} to {v['high']:.1f})"
        end = {"well": "well", "worse": "not well", "open": "it cannot be told yet whether that is worse"}
        said.append(f"{start}, {span}: {end[v['verdict']]}")
    return said


def balance(result: Mapping[str, Any]) -> list[str]:
    """The share of each class in the target; the classes whose interval leaves out an equal share."""
    classes = result["classes"]
    if not classes:
        return []
    equal = 100 / len(classes)
    named = [c for c in classes if c["low"] > equal or c["high"] < equal]
    shown = ", ".join(f"{c['class']} {c['value']:.1f} ({c['low']:.1f} to {c['high']:.1f})" for c in classes)
    clear = ", ".join(c["class"] for c in named)
    return [
        f"shares of the classes in the target, percent, with {result['level']} % intervals: {shown}",
        f"shares that differ from an equal one ({equal:.1f}) by these labels: {clear}"
        if named
        else f"no class has a share that differs from an equal one ({equal:.1f}) by these labels",
    ]

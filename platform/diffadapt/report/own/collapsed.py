"""Rows that predict (nearly) one class: named under the printed table and at the head of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from diffadapt.core.runs import Run
from diffadapt.metrics.collapse import RULE
from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section
from diffadapt.report.table import clean_text

FILE = "collapsed.json"
"""The rows, in the run's folder; there is none where no row has collapsed."""
NAMED, LISTED = 3, 100
"""Cases of a row that its sentence names, and that the report lists."""


class Collapsed(Section):
    """Which rows, where, and by which rule."""

    title = "Rows that predict nearly one class"

    def data(self, page: Page) -> Any:
        return masked(optional_json(page.run, FILE)) or None

    def html(self, data: Any) -> str:
        rows = [
            (c["row"], place(c), class_of(data, c), f"{c['share']:.1f}", expected(c), c["images"])
            for c in data["cases"][:LISTED]
        ]
        more = len(data["cases"]) - len(rows)
        return Markup(
            load_page("collapsed.html.j2").render(rows=rows, more=more, rule=RULE, notes=sentences_of(data))
        )


def collapsed_sentences(run: Run) -> list[str]:
    """What the terminal and the report's head say: a sentence for each row that has collapsed."""
    return sentences_of(masked(optional_json(run, FILE)))


def sentences_of(data: Mapping[str, Any]) -> list[str]:
    """One sentence for all rows that have collapsed, their cases counted, and one for each class that several
    rows give to (nearly) all images without labels to judge by."""
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for c in data.get("cases") or ():
        if c["alike"]:
            alike.setdefault((c["group"], class_of(data, c)), []).append(c)
        else:
            by_row.setdefault(c["row"], []).append(c)
    out = [clean_text(_of_rows(data, by_row))] if by_row else []
    for (group, name), cases in alike.items():
        rows = list(dict.fromkeys(c["row"] for c in cases))
        listed = ", ".join(rows[:NAMED]) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")
        least, one = min(c["share"] for c in cases), len(rows) == 1
        where = f" ({_spoken(group)})" if group else ""
        out.append(
            clean_text(
                f"{listed} predict{'s' * one} {name!r} for {least:.0f} % or more of the target's"
                f" images{where}:"
                f" either the target has one class, or {'it has' if one else 'they have'} collapsed."
                " Without labels nothing here tells which."
            )
        )
    return out


def _of_rows(data: Mapping[str, Any], by_row: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """'DANN has collapsed: it predicts ...', or of several rows how often each, and one case."""
    where = {
        row: f" in {len(cases)} of {cases[0]['cases']} cases" if cases[0]["cases"] > 1 else ""
        for row, cases in by_row.items()
    }
    if len(by_row) == 1:
        ((row, cases),) = by_row.items()
        more = f"; and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
        said = "; ".join(_case(data, c) for c in cases[:NAMED])
        return f"{row} has collapsed{where[row]}: it predicts {said}{more}."
    listed = ", ".join(f"{row}{where[row]}" for row in list(by_row)[:NAMED])
    beyond = len(by_row) - NAMED
    more = f" and {beyond} more row{'s' * (beyond > 1)}" if beyond > 0 else ""
    first = next(iter(by_row))
    return (
        f"{len(by_row)} rows predict nearly one class: {listed}{more}; {first}, for one, answers"
        f" {_case(data, by_row[first][0])}."
    )


def collapsed_rows(data: Mapping[str, Any]) -> dict[tuple[str, int], list[str]]:
    """(group, seed) -> the rows that have collapsed there, as far as that is known."""
    out: dict[tuple[str, int], list[str]] = {}
    for c in (c for c in data.get("cases") or () if not c["alike"]):
        out.setdefault((c["group"], c["seed"]), []).append(c["row"])
    return out


def place(case: Mapping[str, Any]) -> str:
    """'amazon-webcam, seed 0'."""
    return f"{_spoken(case['group'])}, seed {case['seed']}"


def class_of(data: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """The name of the class, its number where it has none."""
    names: Sequence[str] = data.get("classes") or ()
    return names[case["label"]] if case["label"] < len(names) else str(case["label"])


def expected(case: Mapping[str, Any]) -> str:
    """The class's share of the images and how that is known."""
    if case["expected"] is None:
        return "-"
    return f"{case['expected']:.1f} ({'labels' if case['known'] else 'other rows'})"


def _case(data: Mapping[str, Any], c: Mapping[str, Any]) -> str:
    whole = c["count"] == c["images"]
    counted = f"all {c['images']:,}" if whole else f"{c['count']:,} of {c['images']:,}"
    how = "by the labels" if c["known"] else "by the other rows"
    return f"{class_of(data, c)!r} for {counted} images of {place(c)} ({how} {c['expected']:.1f} % are)"


def _spoken(group: str) -> str:
    name, _, severity = group.partition("/")
    return f"{name} {severity}" if severity not in ("", "0") else name

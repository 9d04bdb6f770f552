"""What each label-free validator would choose in a benchmark, how far that is below the best where labels are
known, and where validators are known to fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from diffadapt.metrics.validators import VALIDATORS, warnings
from diffadapt.report.mask import masked
from diffadapt.report.own.collapsed import FILE as COLLAPSED
from diffadapt.report.own.collapsed import collapsed_rows
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section

FILE = "label_free.json"
"""The scores, in the run's folder."""
SHOWN = 60
"""Cases (transfer and seed) with a line of their own."""


class LabelFree(Section):
    """Chosen rows, what that costs, scores."""

    title = "Without labels: what the validators would choose"

    def data(self, page: Page) -> Any:
        data = masked(optional_json(page.run, FILE))
        return (
            {**data, "collapsed": collapsed_rows(masked(optional_json(page.run, COLLAPSED)))}
            if data
            else None
        )

    def html(self, data: Any) -> str:
        cases = data["cases"]
        return Markup(
            load_page("label_free.html.j2").render(
                names=[VALIDATORS[n].title for n in names(data)],
                chosen=[(case_title(data, c), choices(c, names(data))) for c in cases[:SHOWN]],
                more=max(0, len(cases) - SHOWN),
                regret=regrets(data),
                scores=[line for c in cases[:SHOWN] for line in _scores(data, c)],
                warnings=warned(data),
                some=data["some"],
                left_out=data["left_out"],
            )
        )


def names(data: Mapping[str, Any]) -> list[str]:
    """The validators, in the order of the file."""
    return list(dict.fromkeys(n for c in data["cases"] for n in c["scores"]))


def choices(case: Mapping[str, Any], validators: Sequence[str]) -> list[str]:
    """The row that each validator would choose, with its points below the best where labels are known."""
    out = []
    for name in validators:
        if name not in case["scores"]:
            out.append("-")
            continue
        i = int(np.argmax(case["scores"][name]))
        lost = _lost(case, i)
        out.append(
            case["rows"][i] + ("" if lost is None else f" ({-lost:.1f})" if lost >= 0.05 else " (best)")
        )
    return out


def regrets(data: Mapping[str, Any]) -> list[str]:
    """The mean, over the cases with labels, of how far each validator's choice is below the best row; empty
    without labels."""
    out = []
    for name in names(data):
        found = [_lost(c, int(np.argmax(c["scores"][name]))) for c in data["cases"] if name in c["scores"]]
        known = [v for v in found if v is not None]
        out.append(f"{np.mean(known):.1f}" if known else "-")
    return out if any(v != "-" for v in out) else []


def warned(data: Mapping[str, Any]) -> list[str]:
    """Where validators are known to fail here, a sentence each, its cases counted."""
    said: dict[str, list[str]] = {}
    for c in data["cases"]:
        gone = set(data["collapsed"].get((c["group"], c["seed"]), ()))
        for clause in warnings(list(c["scores"]), len(c["rows"]), bool(gone & set(c["rows"]))):
            said.setdefault(clause, []).append(case_title(data, c))
    whole = len(data["cases"])
    return [
        f"{clause}{'' if whole == 1 else f' (here: {_listed(where, whole)})'}."
        for clause, where in said.items()
    ]


def warnings_of(rows: Sequence[str], validators: Sequence[str], collapsed: Mapping[str, Any]) -> list[str]:
    """The same of a run with one list of candidates; ``collapsed``: the content of collapsed.json."""
    gone = {row for found in collapsed_rows(collapsed).values() for row in found}
    return [f"{clause}." for clause in warnings(validators, len(rows), bool(gone & set(rows)))]


def case_title(data: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """'amazon-webcam, seed 0'; the seed where there are several."""
    seeds = len({c["seed"] for c in data["cases"]}) > 1
    return ", ".join(filter(None, (case["group"], f"seed {case['seed']}" if seeds else ""))) or "target"


def _listed(where: Sequence[str], whole: int) -> str:
    if len(where) == whole:
        return "everywhere"
    return "; ".join(where[:3]) + (f"; and {len(where) - 3} more of {whole}" if len(where) > 3 else "")


def _lost(case: Mapping[str, Any], i: int) -> float | None:
    """Points of the run's metric that row ``i`` is below the best."""
    if any(v is None for v in case["true"]):
        return None
    return max(case["true"]) - case["true"][i]


def _scores(
    data: Mapping[str, Any], case: Mapping[str, Any]
) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    gone = data["collapsed"].get((case["group"], case["seed"]), ())
    out = []
    for i, row in enumerate(case["rows"]):
        columns = [case["scores"].get(n) for n in names(data)]
        cells = [("-", False) if v is None else (f"{v[i]:.4f}", v[i] == max(v)) for v in columns]
        out.append((case_title(data, case), row + (" (collapsed)" if row in gone else ""), cells))
    return out

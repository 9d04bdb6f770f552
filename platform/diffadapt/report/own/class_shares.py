"""The estimated share of each class in the target beside what the rows predict, and how far such estimates
were off where labels are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from diffadapt.metrics.class_shares import ABSENT, KNOWN
from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section

FILE = "class_shares.json"
"""The estimates, in the run's folder."""
NAMED = 40
"""Classes that a sentence names."""


class ClassShares(Section):
    """Estimated, predicted and true shares."""

    title = "Classes of the target: estimated shares"

    def data(self, page: Page) -> Any:
        return masked(optional_json(page.run, FILE)) or None

    def html(self, data: Any) -> str:
        return Markup(
            load_page("class_shares.html.j2").render(
                tables=[(title(row), *table(data, row)) for row in shown(data)],
                errors=errors(data),
                findings=findings(data),
                left_out=data["left_out"],
            )
        )


def shown(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows whose estimate has a known error."""
    return [row for row in data["rows"] if any(k.how == row["how"] for k in KNOWN)]


def title(row: Mapping[str, Any]) -> str:
    """The row's name with its transfer."""
    return f"{row['row']} ({row['group']})" if row["group"] else row["row"]


def table(data: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows as text, percent."""
    true = row["true"] is not None
    head = [
        "class",
        f"estimated ({row['how']})",
        "predicted",
        *(["by the data's labels"] if true else []),
        "",
    ]
    rows = []
    for i, name in enumerate(data["classes"]):
        values = [row["estimated"][i], row["predicted"][i], *([row["true"][i]] if true else [])]
        said = "probably not in the target" if name in row["absent"] else ""
        rows.append([name, *(f"{v:.1f}" for v in values), said])
    return head, rows


def findings(data: Mapping[str, Any]) -> list[str]:
    """What each shown row says, a sentence an entry."""
    said = []
    for row in shown(data):
        line = f"{title(row)}: "
        if gone := row["absent"]:
            more = f" and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
            line += f"probably not in the target: {', '.join(gone[:NAMED])}{more}"
        else:
            line += "every class is probably in the target"
        if row["estimated_error"] is not None:
            line += (
                f"; by the data's labels the estimate is off by {row['estimated_error']:.1f} points of total"
                f" variation, the predictions' shares by {row['predicted_error']:.1f}"
            )
        said.append(line)
    return said


def errors(data: Mapping[str, Any]) -> list[str]:
    """How far the shown estimates were off, a sentence for each."""
    used = {row["how"] for row in shown(data)}
    return [
        f"{k.how}: on {k.rows} rows of {k.runs} the estimated shares were off by {k.error:.1f} points (total"
        f" variation) in the mean, the shares that the rows predict by {k.predicted:.1f}; of {k.absent}"
        " classes that"
        f" were not there {k.found} were named (below {100 * ABSENT:.0f} % of an even share), and {k.wrong}"
        " that were"
        f" there: an estimate, not a measurement"
        for k in KNOWN
        if k.how in used
    ]

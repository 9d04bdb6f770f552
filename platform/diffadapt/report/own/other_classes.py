"""Images of no listed class: how many the energy rejects, and where labels are known how well it tells
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from diffadapt.metrics.rejection import KNOWN, TPR
from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section

FILE = "other_classes.json"
"""What the energy says of the target, in the run's folder."""


class OtherClasses(Section):
    """Rejected images by row."""

    title = "Images of no listed class"

    def data(self, page: Page) -> Any:
        return masked(optional_json(page.run, FILE)) or None

    def html(self, data: Any) -> str:
        head, rows = table(data)
        return Markup(
            load_page("other_classes.html.j2").render(
                head=head, rows=rows, rules=rules(data), errors=errors()
            )
        )


def table(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows as text."""
    known = any("auroc" in row for row in data["rows"])
    head = ["row", "images", "rejected", "energy above"]
    head += ["of unlisted classes", "AUROC", "FPR95", "rejected of these", "of listed"] if known else []
    rows = []
    for row in data["rows"]:
        parts = [row["group"], "" if row["seed"] is None else f"seed {row['seed']}"]
        name = f"{row['row']} ({', '.join(p for p in parts if p)})" if any(parts) else row["row"]
        cells = [name, f"{row['images']:,}", f"{row['rejected']:,}", f"{row['limit']:.2f}"]
        if known:
            figures = ("auroc", "fpr95", "others_rejected", "listed_rejected")
            cells += [str(row.get("others", "-")), *(f"{row[f]:.1f}" if f in row else "-" for f in figures)]
        rows.append(cells)
    return head, rows


def rules(data: Mapping[str, Any]) -> list[str]:
    """Where the limits are from, a sentence each."""
    said = []
    for rule, of in dict.fromkeys((row["rule"], row["of"]) for row in data["rows"]):
        line = f"The limit is the energy that {100 * TPR:.0f} % of {of:,} {rule} do not exceed"
        if "own" in rule:
            line += f", so {100 * (1 - TPR):.0f} % are rejected whatever they show; --held-out 0.1 says more"
        said.append(line)
    return said


def errors() -> list[str]:
    """How well the energy did where labels are known, a sentence each."""
    return [
        f"On {k.rows} rows of {k.runs} the energy ranks an image of an unlisted class above one of a listed"
        f" class in {k.auroc:.0f} of 100 pairs (AUROC), and lets {k.fpr95:.0f} % of them pass where 95 % of"
        f" the listed ones do (FPR95); the limit of held-out source images rejected {k.others:.0f} % of them"
        f" and {k.listed:.0f} % of the listed ones, that of the target's own images {k.others_target:.0f} %"
        f" and {k.listed_target:.0f} %"
        for k in KNOWN
    ]

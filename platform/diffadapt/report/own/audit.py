"""What an audit's labels say of the run's rows, in its report."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from diffadapt.report.audit_words import FILE, cells, columns, findings, notes
from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section


class Audit(Section):
    """Accuracies with intervals, and which rows can be told apart."""

    title = "Audit: accuracy from a few labels"

    def data(self, page: Page) -> Any:
        return masked(optional_json(page.run, FILE)) or None

    def html(self, data: Any) -> str:
        return Markup(
            load_page("audit.html.j2").render(
                columns=columns(data),
                rows=[(row, cells(data, row)) for row in data["rows"]],
                findings=findings(data),
                notes=notes(data),
            )
        )

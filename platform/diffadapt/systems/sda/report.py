"""What a report says of a run of SDA beside its scores: the paper's figures, beside ours where the run's
target is that benchmark, by themselves otherwise; what fine-tuning cost, beside the paper's Table 3."""

from __future__ import annotations

from typing import Any

from diffadapt.core.pipeline import RESULT
from diffadapt.metrics.classification import TOP1
from diffadapt.report.sections import Page, SystemReport
from diffadapt.report.summary import summarise
from diffadapt.systems.sda import authors
from diffadapt.systems.sda import published as paper
from diffadapt.systems.sda.beside import beside
from diffadapt.systems.sda.cost import cost, projections


class SdaReport(SystemReport):
    """The paper's tables."""

    def what(self, page: Page) -> str:
        if any(r.role.kind == RESULT for r in page.table.main):
            return "Diffusion-driven test-time adaptation with Synthetic-Domain Alignment (SDA)"
        return super().what(page)

    def data(self, page: Page) -> dict[str, Any]:
        config = page.manifest.get("config") or {}
        result = paper.match(str(page.manifest.get("recipe", "")), config)
        benchmark, model = result or ("", None)
        names = paper.benchmarks()
        return {
            "citation": paper.citation(),
            "beside": beside(summarise(page.scores, TOP1.name), config, benchmark, model) if model else [],
            "beyond": authors.beyond() if model else (),
            "titles": paper.titles(),
            "cost": cost(page.run, page.manifest, model),
            "projections": projections(page.run, page.manifest, page.table),
            "model": model,
            "grids": [_grid(b, names[b], model) for b in paper.MAIN_TABLES if benchmark in ("", b)],
            "open": bool(result),
            "benchmark": names.get(benchmark, ""),
        }


def _grid(benchmark: str, what: str, model: str | None) -> dict[str, Any]:
    number = paper.MAIN_TABLES[benchmark]
    rows = paper.published(benchmark, table=number)
    methods = list(dict.fromkeys(r.method for r in rows))
    by_model = {m: {r.method: r.value for r in rows if r.model == m} for m in paper.models(benchmark)}
    values = [
        (m, [f"{v[x]:.1f}" if x in v else "-" for x in methods], m == model) for m, v in by_model.items()
    ]
    return {"title": f"Table {number}: {what}", "methods": methods, "rows": values}

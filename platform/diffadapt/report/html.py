"""The report of a run: one self-contained HTML file, made from the run folder alone, without torch."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from markupsafe import Markup

from diffadapt.core.errors import StoreError
from diffadapt.core.record import Score
from diffadapt.core.runs import Run
from diffadapt.core.store import redact
from diffadapt.report import provenance
from diffadapt.report.charts import bar_chart, group_chart
from diffadapt.report.findings import findings
from diffadapt.report.ladder import is_adaptation
from diffadapt.report.mask import masked
from diffadapt.report.pictures import pictures
from diffadapt.report.summary import Summary, difference, group_label, metrics, summarise
from diffadapt.report.table import legend, rows_for_html
from diffadapt.systems.adapt_anything import report as adaptation
from diffadapt.systems.sda import published as paper
from diffadapt.systems.zodi import report as zodi

FOLDER = Path(__file__).parent
QUARANTINE_SHOWN = 50
CLASSES_SHOWN = 60


def write_report(run: Run) -> str:
    """Write ``report.html`` into the run folder and return its URL. StoreError when the run has no manifest
    yet."""
    run.write("report.html", render(run).encode("utf-8", "replace"))
    return posixpath.join(run.url, "report.html")


def render(run: Run) -> str:
    """The page. Every text from the run is escaped and its credentials are masked; nothing is loaded from
    elsewhere."""
    manifest = run.manifest()
    try:
        scores = run.scores()
    except StoreError:
        if run.has("scores.parquet"):
            raise
        scores = []
    page = load_page("report.html.j2")
    return page.render(
        style=style_sheet(),
        facts=_facts(run, manifest, scores),
        warnings=adaptation.warnings(run),
        adaptation=adaptation.adaptation(run, manifest, summarise(scores)),
        zodi=zodi.zodi(run, manifest, scores),
        tables=[
            _table(scores, m, manifest) for m in metrics(scores)[: 1 if zodi.is_zodi(manifest) else None]
        ],
        published=None if is_adaptation(manifest) or zodi.is_zodi(manifest) else _published(manifest, scores),
        pictures=pictures(run),
        quarantined=_quarantined(manifest),
        made=_made(run, manifest),
    )


def load_page(name: str) -> Any:
    """The template ``name`` of the report's own folder, or one that lies beside a system's section or the sweeps' page."""
    import jinja2

    folders = [FOLDER, *sorted({p.parent for p in FOLDER.parent.glob("*/*/*.j2")})]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def style_sheet() -> Markup:
    return Markup((FOLDER / "style.css").read_text(encoding="utf-8"))


def _facts(run: Run, manifest: Mapping[str, Any], scores: list[Score]) -> dict[str, Any]:
    table = summarise(scores)
    status, execution = run.status(), provenance.optional_json(run, "execution.json")
    recipe = masked(str(manifest.get("recipe", "")))
    updated = status.get("updated")
    finished = (
        datetime.fromtimestamp(updated, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        if isinstance(updated, (int, float))
        else ""
    )
    chips = [("run", run.name), ("seed", str(manifest.get("seed", "")))]
    chips += [("images", str(max((r.of_images for r in table.rows), default=0)))] if table.rows else []
    chips += [("took", d)] if (d := provenance.duration(execution)) else []
    chips += [("written", finished)] if finished else []
    adapts = is_adaptation(manifest)
    if zodi.is_zodi(manifest):
        tiles = zodi.tiles(scores, manifest)
    else:
        tiles = (
            adaptation.tiles(table, manifest, adaptation.first_split(run, manifest))
            if adapts
            else _tiles(table)
        )
    return {"recipe": recipe, "what": _what(table, manifest), "chips": chips, "tiles": tiles}


def _what(table: Summary, manifest: Mapping[str, Any]) -> str:
    known = (
        adaptation.what(manifest)
        if is_adaptation(manifest)
        else zodi.what(manifest)
        if zodi.is_zodi(manifest)
        else ""
    )
    if not table.rows:
        return (
            f"{known}. " if known else ""
        ) + "This run has no scores: its target has no labels, or no method has finished."
    method = known or (
        "Diffusion-driven test-time adaptation with Synthetic-Domain Alignment (SDA)"
        if table.role("sda")
        else "Adaptation of a classifier without target labels"
    )
    rows = f"{len(table.main)} method{'s' * (len(table.main) != 1)}" + (
        f" and {len(table.controls)} control{'s' * (len(table.controls) != 1)}" if table.controls else ""
    )
    where = (
        f"{len(table.groups)} {table.group_noun}"
        if len(table.groups) > 1
        else group_label(table.groups[0], table.groups)
    )
    return f"{method}: {rows} on {where}."


def _tiles(table: Summary) -> list[dict[str, str]]:
    """Source, DDA and SDA (or the first and last main row) as large figures with the step between them."""
    chosen = [r for r in (table.role(n) for n in ("source", "dda", "sda")) if r and r.mean is not None]
    if len(chosen) < 2:
        measured = [r for r in table.main if r.mean is not None]
        chosen = [measured[0], measured[-1]] if len(measured) > 1 else []
    tiles = []
    for i, row in enumerate(chosen):
        step = ""
        if i and (d := difference(row, chosen[i - 1], table.metric)):
            step = f"{d.value:+.1f} to {chosen[i - 1].title}" + ("" if d.same_images else " *")
        tiles.append(
            {
                "name": row.title,
                "value": f"{row.mean:.1f}",
                "error": "" if row.standard_error is None else f"± {row.standard_error:.1f}",
                "step": step,
            }
        )
    return tiles


def _table(scores: list[Score], metric: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    table = summarise(scores, metric)
    rows = rows_for_html(table)
    groups = table.groups if len(table.groups) > 1 else ()  # the only group's column would repeat the mean
    chart, colours, left_out = group_chart(table)
    return {
        "metric": table.metric_name,
        "main": [r for r in rows if not r.control],
        "controls": [r for r in rows if r.control],
        "groups": [group_label(g, groups) for g in groups],
        "noun": table.group_noun,
        "has_error": any(r.standard_error is not None for r in table.rows),
        "has_deviation": any(r.deviation is not None for r in table.rows),
        "reference": table.reference.title if table.reference else "",
        "has_delta": any(r.delta for r in rows),
        "has_clean": table.has_clean,
        "notes": [r for r in rows if r.note],
        "legend": legend(table),
        "findings": findings(scores, metric, manifest),
        "bars": [bar_chart(table), bar_chart(table, narrow=True)],
        "group_bars": [chart, group_chart(table, narrow=True)[0]],
        "colours": colours,
        "left_out": left_out,
    }


def _published(manifest: Mapping[str, Any], scores: list[Score]) -> dict[str, Any]:
    """The paper's table: beside ours where the run's target is that benchmark, by itself otherwise."""
    found = paper.match(str(manifest.get("recipe", "")), manifest.get("config") or {})
    names = paper.benchmarks()
    grids = [
        _grid(b, names[b], found[1] if found and found[0] == b else None)
        for b in paper.MAIN_TABLES
        if not found or found[0] == b
    ]
    beside: list[dict[str, str]] = []
    if found and found[1]:
        table = summarise(scores, "top1")
        for p in paper.published(found[0], found[1], paper.MAIN_TABLES[found[0]]):
            row = table.role(p.method.lower())
            has = row is not None and row.mean is not None
            beside.append(
                {
                    "method": p.method,
                    "published": f"{p.value:.1f}",
                    "here": f"{row.mean:.1f}" if has else "not run",
                    "difference": f"{row.mean - p.value:+.1f}" if has else "",
                    "images": row.coverage if has else "",
                }
            )
    return {
        "citation": paper.citation(),
        "beside": beside,
        "model": found[1] if found else None,
        "grids": grids,
        "open": bool(found),
        "benchmark": names[found[0]] if found else "",
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


def _quarantined(manifest: Mapping[str, Any]) -> dict[str, Any]:
    items = provenance.quarantine(manifest)
    return {"count": len(items), "items": items[:QUARANTINE_SHOWN]}


def _made(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any]:
    execution = masked(provenance.optional_json(run, "execution.json"))
    classes = masked(list(manifest.get("class_names") or ()))
    command, whole = provenance.command(run, manifest)
    return {
        "command": command,
        "whole": whole,
        "url": redact(run.url),
        "settings": provenance.settings(manifest),
        "weights": provenance.weights(manifest),
        "stages": provenance.stages(masked(manifest)),
        "versions": [(k, str(v)) for k, v in (manifest.get("versions") or {}).items()],
        "classes": classes[:CLASSES_SHOWN],
        "more_classes": max(0, len(classes) - CLASSES_SHOWN),
        "runner": str(execution.get("runner", "")),
        "duration": provenance.duration(execution),
        "batch_sizes": [(k, str(v)) for k, v in (execution.get("batch_sizes") or {}).items()],
    }

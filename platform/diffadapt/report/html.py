"""The report of a run: one self-contained HTML file, made from the run folder alone, without torch."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from diffadapt.core.errors import LostError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.report import provenance
from diffadapt.report.charts import bar_chart, group_chart
from diffadapt.report.findings import findings
from diffadapt.report.mask import masked
from diffadapt.report.own.collapsed import collapsed_sentences
from diffadapt.report.page import load_page, style_sheet
from diffadapt.report.pictures import pictures
from diffadapt.report.sections import Page, SystemReport, own_sections, report_of, tile
from diffadapt.report.summary import Summary, difference, group_label, metrics, summarise
from diffadapt.report.table import legend, rows_for_html

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
    except LostError:
        if run.has("scores.parquet"):
            raise
        scores = []
    page, own = Page(run, manifest, scores), report_of(manifest)
    return load_page("report.html.j2").render(
        style=style_sheet(),
        facts=facts_of(page, own),
        warnings=[*collapsed_sentences(run), *provenance.warnings(run)],
        tables=[score_view(page, m) for m in metrics(scores)[: own.tables]],
        sections=[
            (section.title, section.html(data))
            for section in (own, *own_sections())
            if (data := section.data(page)) is not None
        ],
        pictures=pictures(run),
        quarantined=_quarantined(manifest),
        made=_made(run, manifest),
    )


def facts_of(page: Page, own: SystemReport) -> dict[str, Any]:
    """The head of the page: recipe, what it is, chips (name, value), tiles."""
    run, manifest, table = page.run, page.manifest, page.table
    status, execution = run.status(), provenance.optional_json(run, "execution.json")
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
    tiles = own.tiles(page)
    return {
        "recipe": masked(str(manifest.get("recipe", ""))),
        "what": _what(table, own.what(page)),
        "chips": chips,
        "tiles": _tiles(table) if tiles is None else tiles,
    }


def _what(table: Summary, system: str) -> str:
    if not table.rows:
        start = f"{system}. " if system else ""
        return f"{start}This run has no scores: its target has no labels, or no method has finished."
    rows = f"{len(table.main)} method{'s' * (len(table.main) != 1)}" + (
        f" and {len(table.controls)} control{'s' * (len(table.controls) != 1)}" if table.controls else ""
    )
    where = (
        f"{len(table.groups)} {table.group_noun}"
        if len(table.groups) > 1
        else group_label(table.groups[0], table.groups)
    )
    return f"{system}: {rows} on {where}."


def _tiles(table: Summary) -> list[dict[str, str]]:
    """The reference and the rows that build on it (or the first and last main row) as large figures with the
    step between them."""
    steps = [table.reference, *(r for r in table.main if r.role.partner)]
    chosen = [r for r in steps if r and r.mean is not None]
    if len(chosen) < 2:
        measured = [r for r in table.main if r.mean is not None]
        chosen = [measured[0], measured[-1]] if len(measured) > 1 else []
    tiles = []
    for i, row in enumerate(chosen):
        step = ""
        if i and (d := difference(row, chosen[i - 1], table.metric)):
            step = f"{d.value:+.1f} to {chosen[i - 1].title}" + ("" if d.same_images else " *")
        tiles.append(tile(row.title, row.mean, row.standard_error, step))
    return tiles


def score_view(page: Page, metric: str) -> dict[str, Any]:
    """The score table of a metric with its legend, what it shows, and its charts, as the template takes
    them."""
    table = summarise(page.scores, metric)
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
        "findings": findings(page.scores, metric, page.manifest),
        "bars": [bar_chart(table), bar_chart(table, narrow=True)],
        "group_bars": [chart, group_chart(table, narrow=True)[0]],
        "colours": colours,
        "left_out": left_out,
    }


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

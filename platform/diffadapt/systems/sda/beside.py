"""The paper's figures beside a run's own rows, with the settings that keep the two from being compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.report.sentences import unlike_published
from diffadapt.report.summary import MethodSummary, Summary
from diffadapt.systems.sda import authors
from diffadapt.systems.sda import published as paper

IMAGES = {"imagenet-c": 15 * 50_000, "imagenet-w": 50_000}
"""What a published figure is the mean over."""


def beside(table: Summary, config: Mapping[str, Any], benchmark: str, model: str) -> list[dict[str, str]]:
    """An entry for each figure that the paper prints of ``model`` on ``benchmark`` and that this run stands
    beside: all of the main table, and of the others (components, number of images, guidance, sensitivity) the
    columns whose setting is the run's and whose row it has. A figure that several tables print stands once.

    ``settings``: 'as published', or what differs (:func:`diffadapt.systems.sda.authors.unlike`).
    """
    rows, out, seen = _rows(table), [], set()
    main = paper.MAIN_TABLES[benchmark]
    figures = paper.published(benchmark, model)
    for p in sorted(figures, key=lambda p: (p.table != main, p.table)):
        row = rows.get(p.row)
        elsewhere = any(authors.value_of(config, field) != value for field, value in p.given.items())
        if p.table != main and (row is None or elsewhere or (p.row, p.value) in seen):
            continue
        seen.add((p.row, p.value))
        out.append(
            {
                "table": p.table,
                "method": p.method,
                "published": f"{p.value:.1f}",
                "here": f"{row.mean:.1f}" if row else "not run",
                "difference": f"{row.mean - p.value:+.1f}" if row and row.mean is not None else "",
                "images": row.coverage if row else "",
                "settings": _settings(config, p, row) if row else "",
            }
        )
    return out


def _settings(config: Mapping[str, Any], p: paper.Published, row: MethodSummary) -> str:
    wanted = IMAGES[p.benchmark]
    differing = [] if row.images == wanted else [f"{row.images:,} images for {wanted:,}"]
    severities = authors.value_of(config, "target.severities")
    if p.benchmark == "imagenet-c" and severities not in ([5], authors.ABSENT):
        differing.append(f"severities {severities} for 5")
    known = any(p.row in s.rows for s in authors.settings(p.model))
    differing += authors.unlike(config, p.model, p.row, p.given) if known else ()
    return unlike_published(differing if known or differing else None)


def _rows(table: Summary) -> dict[str, MethodSummary]:
    """The measured rows by their published names and by their own; a single setting of Tent also by the name
    that it has among several."""
    measured = [r for r in table.rows if r.mean is not None]
    known = {r.role.published: r for r in measured if r.role.published and not r.control}
    notes = {f"{r.method} ({r.note})": r for r in measured if r.note.startswith("batch ")}
    return known | notes | {r.method: r for r in measured}

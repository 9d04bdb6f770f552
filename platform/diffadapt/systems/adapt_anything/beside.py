"""Published averages of a benchmark beside a run's own rows, with what keeps the two from being compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.report import generator
from diffadapt.report.roles import roles
from diffadapt.report.summary import Summary
from diffadapt.systems.adapt_anything.published import note, published


def beside(manifest: Mapping[str, Any], table: Summary) -> dict[str, Any] | None:
    """``models`` and ``rows`` of (method, published value a model, value here, deviation here), ``remarks``;
    None when the run is on no benchmark or nothing is published of it."""
    config = manifest.get("config") or {}
    result = published(str(config.get("benchmark") or ""))
    if not result:
        return None
    models = list(dict.fromkeys(p.model for p in result))
    methods = list(dict.fromkeys(p.method for p in result))
    values = {(p.method, p.model): f"{p.value:.1f}" for p in result}
    known = roles(manifest)
    measured = [r for r in reversed(table.main) if r.mean is not None and r.method in known]
    ours = {known[r.method].published.lower(): r for r in measured}
    rows = []
    for method in methods:
        mine = ours.get(method.lower())
        here = (
            ("not run", "")
            if mine is None
            else (f"{mine.mean:.1f}", "" if mine.deviation is None else f"± {mine.deviation:.1f}")
        )
        rows.append((method, [values.get((method, m), "-") for m in models], *here))
    return {
        "models": models,
        "rows": rows,
        "remarks": _remarks(manifest, table),
        "sources": list(dict.fromkeys(p.source for p in result)),
    }


def _remarks(manifest: Mapping[str, Any], table: Summary) -> list[str]:
    backbone = manifest["config"].get("backbone") or {}
    network = str(backbone.get("arch") or backbone.get("name") or "").rstrip("/").split("/")[-1]
    out = [
        note(),
        (
            f"Here: {network or 'another network'}{', frozen' if backbone.get('frozen') else ''}, mean over"
            f" {len(table.groups)} transfer{'s' * (len(table.groups) != 1)}."
        ),
    ]
    if generator.is_synthetic(manifest):
        out.append(
            "The source here is synthetic; the published figures have a real one. Adapt Anything's own tables"
            " are not public."
        )
    if backbone.get("frozen"):
        out.append(
            "The published figures fine-tune the backbone, so a frozen one is expected to stay below them."
        )
    if all(r.selection != "oracle" for r in table.rows):
        out.append("No target label was used to choose an epoch here.")
    return out

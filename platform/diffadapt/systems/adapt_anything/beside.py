"""Published averages of a benchmark beside a run's own rows, with what keeps the two from being compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.methods.uda.config import stated
from diffadapt.report import generator
from diffadapt.report.roles import roles
from diffadapt.report.sentences import unlike_published
from diffadapt.report.summary import Summary
from diffadapt.systems.adapt_anything.published import (
    backbones,
    nearest,
    note,
    other_titles,
    published,
    published_training,
    settings,
    settings_of,
)

ALIKE = ("precision", "checkpoint_every", "seed", "method", "sync_batch_norm")
"""Fields of the training that published figures do not depend on."""


def beside(manifest: Mapping[str, Any], table: Summary) -> dict[str, Any] | None:
    """``models`` and ``rows`` of (method, published value a model, value here, deviation here, what differs
    from the published settings), ``remarks``; None when the run is on no benchmark or nothing is published of
    it."""
    config = manifest.get("config") or {}
    benchmark = str(config.get("benchmark") or "")
    result = published(benchmark)
    if not result:
        return None
    models = list(dict.fromkeys(p.model for p in result))
    methods = list(dict.fromkeys(p.method for p in result))
    values = {(p.method, p.model): f"{p.value:.1f}" for p in result}
    known = roles(manifest)
    measured = [r for r in reversed(table.main) if r.mean is not None and r.method in known]
    ours = {known[r.method].published.lower(): r for r in measured}
    for title, plain in other_titles(config):  # a row that another paper's table has under a name of its own
        if plain.lower() in ours:
            ours[title.lower()] = ours[plain.lower()]
    rows = []
    for method in methods:
        mine = ours.get(method.lower())
        here = (
            ("not run", "", "")
            if mine is None
            else (
                f"{mine.mean:.1f}",
                "" if mine.deviation is None else f"± {mine.deviation:.1f}",
                unlike_published(unlike(config, method, tuple(mine.cells))),
            )
        )
        rows.append((method, [values.get((method, m), "-") for m in models], *here))
    return {
        "models": models,
        "rows": rows,
        "remarks": _remarks(manifest, table),
        "sources": list(dict.fromkeys(p.source for p in result)),
    }


def unlike(config: Mapping[str, Any], method: str, groups: tuple[str, ...] = ()) -> list[str] | None:
    """What keeps a run's row of ``method`` (as tables call it) from being compared with the published figure:
    settings with both values, and whether its ``groups`` are other transfers; None where the published
    settings are not known."""
    benchmark = str(config.get("benchmark") or "")
    found = settings_of(benchmark, method)
    if found is None:
        return None
    source, name = found
    known = settings(benchmark, source)
    backbone = config.get("backbone") or {}
    mine, known_bodies = str(backbone.get("name")), backbones(known)
    out = [] if mine in known_bodies else [f"backbone {mine} for {nearest(mine, known_bodies)[0]}"]
    out += ["frozen features"] * bool(backbone.get("frozen"))
    ours = _training(config.get("uda") or {}, name)
    theirs = _training(to_dict(published_training(benchmark, source)), name)
    for field in sorted(set(ours) | set(theirs)):
        if field not in ALIKE and ours.get(field, theirs.get(field)) != theirs.get(field):
            out.append(f"{field} {ours[field]} for {theirs.get(field)}")
    if (domains := known.get("domains")) and any(not set(g.split("-")) <= {*domains} for g in groups):
        out.append(f"transfers beyond {', '.join(domains)}")
    return out


def _training(uda: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a training with one method, those that the method states for itself in their place."""
    own, mine = stated(uda.get(name) or {})
    return {**{k: v for k, v in uda.items() if not isinstance(v, Mapping)}, **mine, **own} | (
        {"lr": uda["lr"]} if uda.get("lr") is not None else {}
    )


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
    real = [group for group in table.groups if not group.startswith("synthetic-")]
    if generator.is_synthetic(manifest):
        out.append(
            "Rows of a synthetic source stand in the tables above; the column here is of real sources."
            if real
            else "The source here is synthetic; the published figures have a real one. Adapt Anything's own"
            " tables are not public."
        )
    if backbone.get("frozen"):
        out.append(
            "The published figures fine-tune the backbone, so a frozen one is expected to stay below them."
        )
    if all(r.selection != "oracle" for r in table.rows):
        out.append("No target label was used to choose an epoch here.")
    return out

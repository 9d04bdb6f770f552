"""What a report says of a run of Adapt Anything beside its scores: images, filters, split, choice of the
epoch, validators, prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core import terminal
from diffadapt.core.record import Score
from diffadapt.core.runs import Run
from diffadapt.report import generator
from diffadapt.report.mask import masked
from diffadapt.report.own.collapsed import FILE as COLLAPSED
from diffadapt.report.own.label_free import warnings_of
from diffadapt.report.provenance import fit_metrics, optional_json
from diffadapt.report.sections import Page, SystemReport, tile
from diffadapt.report.summary import Summary, difference
from diffadapt.report.table import clean_text, table_style, to_text
from diffadapt.systems.adapt_anything.beside import beside
from diffadapt.systems.adapt_anything.cost import cost
from diffadapt.systems.adapt_anything.findings import Ladder, ladder, ladder_findings

TILES = 6
SHOWN = 60
"""Rows of the longer tables."""


class AdaptationReport(SystemReport):
    """Images, filters, validators, the split and the choice of the epoch."""

    def what(self, page: Page) -> str:
        config = page.manifest.get("config") or {}
        if generator.is_synthetic(page.manifest):
            text = "Adapt Anything: a classifier for unlabelled images, trained on images made from text"
        else:
            text = "Unsupervised domain adaptation from labelled real images"
        return f"{text}, benchmark {config['benchmark']}" if config.get("benchmark") else text

    def tiles(self, page: Page) -> list[dict[str, str]]:
        return tiles(page.table, page.manifest, first_split(page.run, page.manifest))

    def findings(self, table: Summary, scores: Sequence[Score], manifest: Mapping[str, Any]) -> list[str]:
        return ladder_findings(table, manifest)

    def without_scores(self, run: Run, manifest: Mapping[str, Any]) -> str:
        return unlabelled_text(run, manifest)

    def data(self, page: Page) -> dict[str, Any]:
        run, manifest, table = page.run, page.manifest, page.table
        steps, nodes = ladder(manifest), manifest["nodes"]
        kinds = {n: i.get("kind") for n, i in nodes.items()}
        fits = {
            n: fit_metrics(run, manifest, n)
            for n, k in kinds.items()
            if k in ("uda", "ssl", "split", "filter")
        }
        splits = [_split(n, manifest, fits[n]) for n, k in kinds.items() if k == "split" and fits[n]]
        return {
            "images": _images(manifest),
            "zero_shot": _zero_shot(steps),
            "filters": [_filter(n, fits[n]) for n, k in kinds.items() if k == "filter" and fits[n]],
            "splits": splits[:SHOWN],
            "selection": _selection(manifest, fits),
            "validators": validators(run, manifest),
            "published": beside(manifest, table),
            "cost": cost(run, manifest, table, steps),
            "labelled": any(r.mean is not None for r in table.rows),
            "prompts": _prompts(run),
            "frozen": bool((manifest["config"].get("backbone") or {}).get("frozen")),
        }


def tiles(
    table: Summary, manifest: Mapping[str, Any], split: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """The steps as large figures, each with its gain over the one before it, the control and the zero-shot
    baseline beside them.

    Without labels: what the split says of the target.
    """
    steps = ladder(manifest)
    rows = {r.method: r for r in table.rows if r.mean is not None}
    if not rows:
        return _unlabelled_tiles(split)
    named = [steps.base, *steps.stage1, *steps.stage2]
    named = (
        [*named, *steps.direct, *([steps.zero_shot] if steps.zero_shot else []), *steps.clip_taught][:TILES]
        if len(named) <= TILES - 2
        else named[:TILES]
    )
    out = []
    for name in dict.fromkeys(n for n in named if n in rows):
        row, start = rows[name], rows.get(steps.starts.get(name, steps.base))
        d = (
            difference(row, start, table.metric)
            if start and start is not row and name != steps.zero_shot
            else None
        )
        step = f"{d.value:+.1f} to {start.title}" + ("" if d.same_images else " *") if d and start else ""
        kind = "control: " if row.control else ""
        out.append(tile(kind + row.title, row.mean, row.spread, step))
    return out


def validators(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Label-free scores: ``names`` and ``rows`` of (model, values), the best of each column marked; empty
    without validators.json."""
    known = optional_json(run, "validators.json")
    nodes = known.get("nodes") or {}
    names = list(dict.fromkeys(name for scores in nodes.values() for name in scores))
    titles = {row["members"][0]: row["name"] for row in manifest.get("rows") or () if row.get("members")}
    order = list(titles)
    nodes = dict(
        sorted(nodes.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )
    best = {n: max(scores[n] for scores in nodes.values() if n in scores) for n in names}
    rows = [
        (
            masked(titles.get(node, node)),
            [
                (f"{scores[n]:.4f}" if n in scores else "-", len(nodes) > 1 and scores.get(n) == best[n])
                for n in names
            ],
        )
        for node, scores in nodes.items()
    ]
    said = warnings_of([name for name, _ in rows], names, masked(optional_json(run, COLLAPSED)))
    return {
        "names": names,
        "rows": rows,
        "warnings": said,
        "notes": [f"{n}: {text}" for n, text in (known.get("notes") or {}).items()],
    }


def first_split(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics of the first split of the run."""
    node = next((n for n, i in manifest["nodes"].items() if i.get("kind") == "split"), None)
    return (fit_metrics(run, manifest, node) or None) if node else None


def _images(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config, nodes = manifest["config"], manifest["nodes"]
    made = [i for i in nodes.values() if i.get("kind") == "synth"]
    settings = config.get("generator") or {}
    facts = [
        (k, str(settings[f]))
        for f, k in (
            ("images_per_class", "images a class"),
            ("guidance", "guidance"),
            ("steps", "steps"),
            ("scheduler", "scheduler"),
        )
        if f in settings
    ]
    target = nodes.get((manifest.get("outputs") or {}).get("target"), {})
    return {
        "synthetic": generator.is_synthetic(manifest),
        "generator": masked(generator.described(manifest)),
        "toy": generator.is_toy(manifest),
        "count": sum(s[2] for i in made for s in i.get("shards") or ()),
        "facts": facts,
        "domain": masked(str(config.get("domain") or "")),
        "target": sum(s[2] for s in target.get("shards") or ()),
    }


def _zero_shot(steps: Ladder) -> str:
    """Why there is no zero-shot row; empty when there is one."""
    if steps.zero_shot:
        return ""
    return (
        "CLIP zero-shot, the baseline that needs no training, was not run: clip.weights is empty. Give a CLIP"
        " folder or hub id to see whether adaptation beats it."
    )


def _filter(node: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    classes = metrics.get("classes") or {}
    reasons = list(
        dict.fromkeys(k for counts in classes.values() for k in counts if k not in ("made", "kept"))
    )
    used = [r for r in reasons if any(c.get(r) for c in classes.values())]
    rows = [
        (name, c.get("made", 0), c.get("kept", 0), [c.get(r, 0) for r in used]) for name, c in classes.items()
    ]
    touched = sorted(rows, key=lambda r: r[2] / max(r[1], 1))[:SHOWN]
    return {
        "node": node,
        "images": metrics.get("images", 0),
        "kept": metrics.get("kept", 0),
        "reasons": [r.replace("_", " ") for r in used],
        "rows": touched,
        "more": len(rows) - len(touched),
    }


def _split(node: str, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    titles = {row["members"][0]: row["name"] for row in manifest.get("rows") or () if row.get("members")}
    start = next(iter(manifest["nodes"][node].get("inputs") or ()), "")
    threshold = (manifest["config"].get("split") or {}).get("threshold", 0.9)
    per_class = metrics.get("per_class") or {}
    return {
        "from": masked(titles.get(start, start)) + (f" ({node.partition('.')[2]})" if "." in node else ""),
        "images": metrics.get("images", 0),
        "confident": f"{metrics.get('confident', 0)} ({100 * metrics.get('confident_fraction', 0):.0f} %)",
        "above": f"{100 * metrics.get('above_threshold', 0):.2g} %",
        "threshold": f"{threshold:g}",
        "coverage": f"{sum(n > 0 for n, _ in per_class.values())} of {len(per_class)}",
        "never": ", ".join(metrics.get("never_predicted") or ()),
    }


def _selection(manifest: Mapping[str, Any], fits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rule = (manifest["config"].get("select") or {}).get("rule", "last")
    chosen = [
        (n, m["selection"])
        for n, m in fits.items()
        if isinstance(m.get("selection"), Mapping) and m["selection"].get("chosen_step") is not None
    ]
    notes = sorted({str(s["note"]) for _, s in chosen if s.get("note")})
    return {
        "rule": rule,
        "oracle": rule == "oracle",
        "rows": [(n, str(s["chosen_step"]), ", ".join(s.get("scores") or ())) for n, s in chosen][:SHOWN],
        "notes": notes,
    }


def _prompts(run: Run) -> dict[str, Any]:
    known = optional_json(run, "figures/prompts.json")
    by_class: dict[str, list[tuple[str, str]]] = {}
    for p in masked(known.get("prompts") or []):
        by_class.setdefault(str(p.get("class", "")), []).append(
            (str(p.get("prompt", "")), str(p.get("source", "")))
        )
    return {
        "classes": list(by_class.items()),
        "sources": masked(known.get("sources") or []),
        "more": max(0, int(known.get("classes") or 0) - len(by_class)),
    }


def _unlabelled_tiles(split: Mapping[str, Any] | None) -> list[dict[str, str]]:
    if not split:
        return []
    return [
        {
            "name": "target images",
            "value": str(split.get("images", 0)),
            "error": "",
            "step": "without labels: no accuracy is known",
        },
        {
            "name": "classes predicted",
            "value": f"{100 * split.get('coverage', 0):.0f}",
            "error": "%",
            "step": "",
        },
        {
            "name": "mean confidence of stage 1",
            "value": f"{split.get('mean_confidence', 0):.2f}",
            "error": "",
            "step": "confidence is not accuracy",
        },
    ]


def unlabelled_text(
    run: Run, manifest: Mapping[str, Any], *, width: int | None = None, colour: bool | None = None
) -> str:
    """The table of label-free validators, and what they cannot say."""
    colour = terminal.coloured() if colour is None else colour
    width = width or terminal.columns()
    notes = ["The target has no labels, so no accuracy is known."]
    if split := first_split(run, manifest):
        per_class = split.get("per_class") or {}
        notes.append(
            f"Before stage 2, {sum(n > 0 for n, _ in per_class.values())} of {len(per_class)} classes are"
            f" predicted, with mean confidence {split.get('mean_confidence', 0):.2f};"
            f" {split.get('confident', 0)} of {split.get('images', 0)} images count as confident."
        )
    known = validators(run, manifest)
    if not known["rows"]:
        return to_text([], width, colour, notes)
    notes.append("Validators: higher is better, and only models of this run can be compared.")
    notes += known["warnings"]
    return to_text([_validator_table(known, colour)], width, colour, notes)


def _validator_table(known: Mapping[str, Any], colour: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(**table_style(colour))
    table.add_column("label-free", overflow="fold", min_width=12)
    for name in known["names"]:
        table.add_column(clean_text(name), justify="right", no_wrap=True)
    for title, values in known["rows"]:
        table.add_row(
            Text(clean_text(title)), *(Text(text, style="bold" if best else "") for text, best in values)
        )
    return table

"""What a report says of a run of ZoDi beside its main scores: the transfer, quality control, other metrics,
every class, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from diffadapt.core.pipeline import SOURCE
from diffadapt.core.record import Score
from diffadapt.core.runs import Run
from diffadapt.metrics import metric
from diffadapt.metrics.detection import MAP
from diffadapt.metrics.segmentation import MIOU
from diffadapt.report.charts import svg, tag
from diffadapt.report.mask import masked
from diffadapt.report.provenance import fit_metrics
from diffadapt.report.sections import Page, SystemReport
from diffadapt.report.summary import Summary, difference, metrics, summarise
from diffadapt.systems.zodi.findings import ESTIMATE, methods, ours, zodi_findings
from diffadapt.systems.zodi.published import beside

REFUSED_SHOWN = 30
BINS = 20
MEASURES = {
    "consistency": (
        "consistency",
        "IoU of the source model with the labels, relative to that on the original image",
    ),
    "edges": ("edges", "correlation of the gradient magnitudes with the original's"),
    "structure": ("structure", "structure term of SSIM with the original"),
    "luminance": ("luminance", "mean luma, 0 to 255"),
    "source_luminance": ("luminance of the source", "mean luma of the original"),
    "deviation": ("deviation", "standard deviation of the luma"),
    "contrast": ("contrast", "95th less 5th percentile of the luma"),
    "change": ("change", "mean absolute difference to the original, 0 to 255"),
    "clip": ("CLIP", "probability of the target's prompt against the source's"),
}


class ZodiReport(SystemReport):
    """The transfer, quality control, other metrics, every class, published figures."""

    tables = 1

    def what(self, page: Page) -> str:
        transfer = (page.manifest.get("config") or {}).get("transfer") or {}
        boxes = any(n.get("kind") == "boxes" for n in page.manifest["nodes"].values())
        return masked(
            f"ZoDi: a {'detector' if boxes else 'segmenter'} for the domain “{transfer.get('domain', '')}”, of"
            " which training sees no image: labelled source scenes are transferred to it by a diffusion model"
        )

    def tiles(self, page: Page) -> list[dict[str, str]]:
        return tiles(page.scores, page.manifest)

    def findings(self, table: Summary, scores: Sequence[Score], manifest: Mapping[str, Any]) -> list[str]:
        return zodi_findings(table, scores, manifest)

    def data(self, page: Page) -> dict[str, Any]:
        run, manifest, scores = page.run, page.manifest, page.scores
        return {
            "transfer": _transfer(manifest),
            "quality": _quality(run, manifest),
            "others": _others(scores, manifest),
            "classes": _classes(scores, manifest),
            "published": beside(manifest, page.table),
            "oracle": (manifest["config"].get("training") or {}).get("select") == "oracle",
            "target": bool((manifest["config"].get("target") or {}).get("path")),
        }


def tiles(scores: Sequence[Score], manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """The source-only model, the method with its gain, and the estimate, as large figures."""
    table, names = summarise(scores), methods(manifest)
    rows = {r.method: r for r in table.rows if r.mean is not None}
    base, lead = rows.get(names.get(SOURCE, "")), rows.get(ours(names))
    out = []
    for row in [r for r in (base, lead if lead is not base else None) if r]:
        d = difference(row, base, table.metric) if base and row is not base else None
        out.append(
            {
                "name": row.title,
                "value": f"{row.mean:.1f}",
                "error": "" if row.spread is None else f"± {row.spread:.1f}",
                "step": f"{d.value:+.1f} to {base.title}"
                if d and base
                else f"{metric(table.metric).title}, %",
            }
        )
    other = ESTIMATE.get(table.metric, "")
    guess = (
        next(
            (
                r
                for r in summarise(scores, other).rows
                if lead and r.method == lead.method and r.mean is not None
            ),
            None,
        )
        if other in metrics(scores)
        else None
    )
    if guess and lead:
        out.append(
            {
                "name": f"{lead.title}, estimated",
                "value": f"{guess.mean:.1f}",
                "error": "" if guess.spread is None else f"± {guess.spread:.1f}",
                "step": "without a target image",
            }
        )
    return out


def _transfer(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config, nodes = manifest["config"], manifest["nodes"]
    t = config.get("transfer") or {}
    name = next((n for n, i in nodes.items() if i.get("kind") == "transferred"), "")
    identity = (nodes.get(name, {}).get("identity") or {}).get("config") or {}
    weights = str(t.get("weights", ""))
    generator = (
        "a small generator that was trained on the source scenes in this run"
        if weights == "train"
        else _short(weights)
    )
    facts = [
        (word, str(value))
        for key, word in (
            ("method", "method"),
            ("strength", "strength"),
            ("steps", "steps"),
            ("guidance", "guidance"),
            ("palette", "palette"),
        )
        if (value := identity.get(key)) is not None
    ]
    if t.get("profile"):
        facts.append(("profile", str(t["profile"])))
    return {
        "generator": masked(generator),
        "toy": weights.startswith("embedded:"),
        "controlnet": (
            masked(_short(str(t.get("controlnet") or "")))
            if weights != "train" and t.get("method") != "img2img"
            else ""
        ),
        "prompt": masked(str(identity.get("prompt", "")) + str(identity.get("suffix", ""))),
        "facts": [(word, masked(value)) for word, value in facts],
        "count": sum(s[2] for s in nodes.get(name, {}).get("shards") or ()),
    }


def _quality(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of every quality node, and of the main one the distribution of each measure and the refused
    images."""
    decisions = manifest.get("decisions") or {}
    images = decisions.get("images") or []
    main = (manifest.get("outputs") or {}).get("quality", "")
    nodes = [n for n, i in manifest["nodes"].items() if i.get("kind") == "quality"]
    counts = {
        n: fit_metrics(run, manifest, n) or (decisions.get("counts") or {} if n == main else {})
        for n in nodes
    }
    refused = [i for i in images if not i.get("kept")]
    limits = ((manifest["nodes"].get(main) or {}).get("identity") or {}).get("thresholds") or {}
    return {
        "counts": [
            (
                masked(n),
                *(c.get(k, 0) for k in ("images", "kept", "refused", "failed", "attempts", "retried")),
                _reasons(c),
            )
            for n, c in counts.items()
            if c
        ],
        "measures": [
            _measure(m, [i["scores"][m] for i in images if m in (i.get("scores") or {})], limits.get(m))
            for m in MEASURES
            if any(m in (i.get("scores") or {}) for i in images)
        ],
        "refused": [
            (
                masked(str(i["key"])),
                masked(str(i.get("sentence", ""))),
                i.get("attempts", 1),
                f"{i.get('strength', 0):g}",
            )
            for i in refused[:REFUSED_SHOWN]
        ],
        "more": max(0, len(refused) - REFUSED_SHOWN),
        "thresholds": bool(limits),
    }


def _reasons(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in (counts.get("reasons") or {}).items())


def _measure(name: str, values: Sequence[float], limits: Sequence[float] | None) -> dict[str, Any]:
    """Quantiles of one measure, its threshold and its histogram."""
    word, meaning = MEASURES[name]
    ordered = sorted(values)
    digits = 2 if ordered[-1] <= 10 else 0
    quantiles = [
        f"{ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]:.{digits}f}"
        for q in (0, 0.05, 0.5, 0.95, 1)
    ]
    threshold = (
        ""
        if not limits
        else f"at least {limits[0]:g}"
        if len(limits) == 1
        else f"{limits[0]:g} to {limits[1]:g}"
    )
    return {
        "name": word,
        "meaning": meaning,
        "quantiles": quantiles,
        "threshold": threshold,
        "histogram": _histogram(word, ordered),
    }


def _histogram(name: str, ordered: Sequence[float]) -> Markup:
    low, high = ordered[0], ordered[-1]
    counts = [0] * BINS
    for v in ordered:
        counts[min(BINS - 1, int((v - low) / (high - low) * BINS)) if high > low else BINS // 2] += 1
    bars = [
        tag(
            "rect",
            None,
            f"{n} images",
            x=7 * i,
            y=30 - 28 * n / max(counts),
            width=6,
            height=28 * n / max(counts),
            class_="bar-main",
        )
        for i, n in enumerate(counts)
        if n
    ]
    return svg(
        [*bars, tag("line", x1=0, x2=140, y1=30, y2=30, class_="axis")],
        140,
        31,
        f"Histogram of {name} over {len(ordered)} images",
    )


def _others(scores: Sequence[Score], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """One table over all metrics: ``heads`` and ``rows`` of (method, whether a control, a value a metric)."""
    names = metrics(scores)
    if len(names) < 2:
        return {"heads": [], "rows": [], "estimated": 0}
    tables = {m: {r.method: r for r in summarise(scores, m).rows if r.mean is not None} for m in names}
    order = list(dict.fromkeys(s.method for s in scores))
    controls = {s.method for s in scores if s.control}

    def cell(name: str, method: str) -> str:
        row = tables[name].get(method)
        return (
            "-"
            if row is None
            else f"{row.mean:.1f}" + (f" ± {row.deviation:.1f}" if row.deviation is not None else "")
        )

    rows = [
        (masked(m), m in controls, [cell(n, m) for n in names])
        for m in sorted(order, key=lambda m: m in controls)
    ]
    where = {m: next(iter(s.group for s in scores if s.metric == m)).partition("/")[0] for m in names}
    heads = [_head(m, where[m]) for m in names]
    return {
        "heads": heads,
        "rows": rows,
        "estimated": max((s.images for s in scores if s.metric in ESTIMATE.values()), default=0),
    }


def _head(name: str, group: str) -> str:
    """The head of a metric's column; of the row's own metric with the group that it is measured on."""
    known = metric(name)
    return (known.short or name) + (f" ({group})" if name in (MIOU.name, MAP.name) else "")


def _classes(scores: Sequence[Score], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A row a class: a value a method, and what the method gains over the source-only model."""
    found = {s.metric for s in scores if metric(s.metric).by_class}
    order = list(manifest.get("class_names") or ())
    listed = sorted(
        found, key=lambda m: (order.index(c) if (c := m.partition(".")[2]) in order else len(order), m)
    )
    if not listed:
        return {"heads": [], "rows": []}
    tables: list[Summary] = [summarise(scores, m) for m in listed]
    heads = list(dict.fromkeys(r.method for t in tables for r in t.main))
    names = methods(manifest)
    base, lead = names.get(SOURCE, ""), ours(names)
    rows = []
    for name, table in zip(listed, tables, strict=True):
        means = {r.method: r.mean for r in table.rows if r.mean is not None}
        gain = means[lead] - means[base] if base in means and lead in means and base != lead else None
        sign = 0 if gain is None or abs(gain) < 0.05 else (1 if gain > 0 else -1)
        best, worst = (round(f(means.values()), 1) for f in (max, min))
        cells = [
            (f"{means[h]:.1f}", round(means[h], 1) == best > worst) if h in means else ("-", False)
            for h in heads
        ]
        rows.append((masked(name.partition(".")[2]), cells, "" if gain is None else f"{gain:+.1f}", sign))
    return {
        "heads": [masked(h) for h in heads],
        "rows": rows,
        "gain": f"{lead} to {base}" if any(r[2] for r in rows) else "",
        "word": metric(listed[0]).title,
    }


def _short(weights: str) -> str:
    """A local folder by its last part alone."""
    return (
        weights.rstrip("/").replace("\\", "/").split("/")[-1]
        if weights.startswith(("/", "~", "."))
        else weights
    )

"""The report of a sweep: report.html and TensorBoard's HParams, from the sweep's folder alone, without
torch."""

from __future__ import annotations

import posixpath
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from markupsafe import Markup

from diffadapt.core.redact import redact
from diffadapt.core.units import hours_text
from diffadapt.report.page import load_page, style_sheet
from diffadapt.report.provenance import shown
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.recommend import Setting, judged, why
from diffadapt.sweeps.report.axis import short
from diffadapt.sweeps.report.charts import agreement_chart, cloud_chart, curve_chart
from diffadapt.sweeps.report.compare import PAIRS, agreement, axis_heats, benchmark_heat, choice, pareto
from diffadapt.sweeps.report.curves import curves
from diffadapt.sweeps.report.hparams import write_hparams
from diffadapt.sweeps.report.parallel import parallel, parallel_chart
from diffadapt.sweeps.report.text import sweep_text
from diffadapt.sweeps.report.view import OBJECTIVES, View, view
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import SearchConfig

__all__ = ["render", "sweep_text", "write_report"]
OPEN_ROWS = 50
"""Rows of a table that are seen at once; more are folded."""
MOST_ROWS = 1000
"""Rows of a table at most; sweep.parquet has all."""


def write_report(sweep: Sweep) -> str:
    """Write ``report.html`` and ``tensorboard/<trial>`` into the sweep's folder, of a sweep that has not
    finished from what there is; returns the page's URL. StoreError when the folder holds no sweep."""
    found = view(sweep)
    write_hparams(sweep, found)
    sweep.write("report.html", render(sweep, found).encode("utf-8", "replace"))
    return posixpath.join(sweep.url, "report.html")


def render(sweep: Sweep, found: View | None = None) -> str:
    """The page. Every text from the sweep is escaped and its credentials are masked; nothing is loaded from
    elsewhere."""
    v = found or view(sweep)
    lines = parallel(v)
    spots = pareto(v)
    return load_page("sweep.html.j2", Path(__file__).parent).render(
        style=style_sheet() + Markup((Path(__file__).parent / "sweep.css").read_text(encoding="utf-8")),
        v=v,
        head=_head(v),
        notes=_notes(v),
        recommended=_recommended(sweep, v, spots),
        economy=_economy(v),
        settings=_settings(v) if v.repeats else None,
        parallel=lines
        and {
            "wide": parallel_chart(lines),
            "narrow": parallel_chart(lines, narrow=True),
            "left_out": lines.left_out,
            "stopped": -1 in lines.shades,
            "many": len(lines.shades) > 60,
            "axes": len(v.axes),
        },
        factors=[_factor(v, axis) for axis in v.axes] if v.settings else [],
        benchmarks=benchmark_heat(v),
        pairs=axis_heats(v),
        most_pairs=PAIRS,
        pareto=_pareto(v, spots) if len(spots) > 1 else None,
        agreement=_agreement(v),
        trials=_trials(v),
        failures=_failures(v),
        made=_made(sweep, v),
    )


def _head(v: View) -> dict[str, Any]:
    search, counts = v.description.get("search") or {}, v.counts
    updated = v.status.get("updated")
    when = (
        datetime.fromtimestamp(updated, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        if isinstance(updated, (int, float))
        else ""
    )
    chips = [
        ("sweep", v.name),
        ("recipe" if len(v.recipes) == 1 else "benchmarks", ", ".join(v.recipes)),
        ("searcher", str(search.get("searcher", ""))),
    ]
    chips += [("scheduler", str(search["scheduler"]))] if search.get("scheduler", "none") != "none" else []
    chips += [
        (
            "objective",
            (
                f"{v.objective}: {OBJECTIVES.get(v.objective, '')}"
                f" ({'an upper bound' if v.oracle else 'label-free'}; higher is better)"
            ),
        )
    ] + ([("written", when)] if when else [])
    tiles = []
    if v.best:
        tiles.append(
            {
                "name": f"best mean {v.title('objective')}",
                "value": v.number("objective", v.best.mean),
                "error": "" if v.best.spread is None else f"± {v.number('objective', v.best.spread)}",
                "step": v.setting_text(v.best.first),
            }
        )
        accuracy, spread = v.summary(v.best.trials, "accuracy")
        if v.labelled and not v.oracle:
            tiles.append(
                {
                    "name": "its accuracy (%)",
                    "value": v.number("accuracy", accuracy),
                    "error": "" if spread is None else f"± {spread:.2f}",
                    "step": "labels scored it and did not choose it",
                }
            )
    ended = sum(counts.values())
    tiles.append(
        {
            "name": "trials",
            "value": str(ended) if ended >= v.planned else f"{ended} of {v.planned}",
            "error": "",
            "step": v.ended or "none has ended",
        }
    )
    if saving := _saving(v):
        tiles.append(saving)
    return {
        "title": str(v.description.get("space", v.name)),
        "lead": _lead(v),
        "chips": chips,
        "tiles": tiles,
    }


def _lead(v: View) -> str:
    what = " x ".join(a.label for a in v.axes) or "the recipe as it is"
    over = f" over {len(v.recipes)} benchmarks" if len(v.recipes) > 1 else ""
    seeds = ", repeated with other seeds" if v.seeds else ""
    many = len(v.settings)
    return (
        f"A search over {what}{over}{seeds}: {many} setting{'s' * (many != 1)}"
        f" {'has' if many == 1 else 'have'} finished."
    )


def _saving(v: View) -> dict[str, str] | None:
    made = next((e for e in v.description.get("economy") or () if e.get("kind") == "synth"), None)
    if not made or not made["together_items"] or made["apart_items"] <= made["together_items"]:
        return None
    return {
        "name": "images, each made once",
        "value": str(made["together_items"]),
        "error": "",
        "step": f"instead of {made['apart_items']} by trials one by one",
    }


def _notes(v: View) -> list[str]:
    """What has to be known before anything else on the page is read."""
    notes = []
    if v.oracle:
        notes.append(
            "ORACLE: target labels judged the trials of this sweep. Its best values are upper bounds, not"
            " results without labels."
        )
    if v.chosen_by_labels:
        notes.append(
            f"ORACLE: in {v.chosen_by_labels} trial{'s' * (v.chosen_by_labels != 1)} target labels chose the"
            " epoch (select.rule oracle). Accuracy of these is an upper bound."
        )
    if not v.finished:
        ended = sum(v.counts.values())
        of = f" of {v.planned}" if v.planned else ""
        notes.append(
            f"The sweep has not finished (recorded state: {v.status.get('state', 'unknown')}): {ended}{of}"
            " trials have ended, and this page shows what there is. The same command goes on."
        )
    if failed := v.counts["failed"]:
        notes.append(f"{failed} trial{'s' * (failed != 1)} failed; the reasons are below.")
    if any(not s.complete for s in v.settings):
        notes.append(
            f"{sum(not s.complete for s in v.settings)} of {len(v.settings)} settings lack a benchmark, or"
            " have less than half as many trials as others: they are not recommended and come last."
        )
    if v.population:
        notes.append(v.population)
    if v.status.get("error"):
        notes.append(str(v.status["error"]))
    return notes


def _recommended(sweep: Sweep, v: View, spots: Sequence[Any]) -> dict[str, Any] | None:
    if not v.best:
        return None
    first = v.best.first
    file = shlex.quote(redact(posixpath.join(sweep.url, "recommended.json")))
    changed = {**dict(first.changes), **dict(first.adjusted)}
    others = [r for r in v.recipes if r != first.recipe]
    return {
        "why": why(v.settings),
        "values": [(a.name, shown(first.values.get(a.name))) for a in (*v.axes, *v.fixed)],
        "command": f"diffadapt run {file} --root {shlex.quote(redact(sweep.root.location))}",
        "recipe": first.recipe,
        "cheaper": (
            (v.description.get("search") or {}).get("cost", "none") != "none"
            and sum(s.mark > 0 for s in spots) > 1
        ),
        "others": others,
        "adjusted": [(k, shown(value)) for k, value in first.adjusted.items()],
        "options": (
            " ".join(
                f"--{k} {shlex.quote(' '.join(map(str, x)) if isinstance(x, (list, tuple)) else shown(x))}"
                for k, x in changed.items()
                if x not in ([], ())
            )
            if others
            else ""
        ),
        "trials": ", ".join(r.id for r in v.best.trials[:6]) + (" ..." if len(v.best.trials) > 6 else ""),
    }


def _economy(v: View) -> dict[str, Any]:
    rows = list(v.description.get("economy") or ())
    made, result = sum(r.made for r in v.results), sum(r.found for r in v.results)
    return {
        "rows": rows,
        "apart": sum(e["apart"] for e in rows),
        "together": sum(e["together"] for e in rows),
        "made": made,
        "found": result,
        "hours": hours_text(sum(r.device_hours or 0 for r in v.results)),
    }


def _settings(v: View) -> dict[str, Any]:
    rows = [
        (
            s is v.best,
            [a.text(s.first.values.get(a.name)) for a in v.columns] or [v.setting_text(s.first)],
            _numbers(v, s),
            len(s.trials),
            hours_text(s.hours),
            "" if s.complete else "incomplete",
        )
        for s in v.settings[:OPEN_ROWS]
    ]
    return {
        "rows": rows,
        "ranked": any(s.rank is not None for s in v.settings),
        "incomplete": any(not s.complete for s in v.settings),
        "deviation": any(s.spread is not None for s in v.settings),
    }


def _numbers(v: View, s: Setting) -> list[str]:
    ranked = [] if all(o.rank is None for o in v.settings) else ["-" if s.rank is None else f"{s.rank:.2f}"]
    return ranked + [v.number(m, *v.summary(s.trials, m)) for m in v.metrics]


def _factor(v: View, axis: Any) -> dict[str, Any]:
    result = curves(v, axis)
    return {
        "axis": axis,
        "panels": [(v.title(c.metric), curve_chart(v, c), c.remark) for c in result],
        "basis": result[0].basis if result else "",
        "fixed": any(c.fixed for c in result),
        "seeds": any(p.spread is not None for c in result for p in c.points),
        "elbow": any(c.elbow is not None for c in result),
    }


def _pareto(v: View, spots: Sequence[Any]) -> dict[str, Any]:
    metric = "accuracy" if v.labelled else "objective"
    front = sorted((s for s in spots if s.mark), key=lambda s: s.mark)
    rows = [
        (
            s.mark,
            v.setting_text(s.setting.first),
            v.number(metric, *v.summary(s.setting.trials, metric)),
            hours_text(s.x),
            s.setting is v.best,
        )
        for s in front
    ]
    return {
        "wide": cloud_chart(v, spots),
        "narrow": cloud_chart(v, spots, narrow=True),
        "rows": rows[:OPEN_ROWS],
        "metric": v.title(metric),
        "labels": v.labelled,
        "of": len(spots),
        "chosen_on": any(r[4] for r in rows),
    }


def _agreement(v: View) -> dict[str, Any] | None:
    found = agreement(v)
    if not found or max(len(a.spots) for a in found) < 2:
        return None
    charts = [
        (
            v.benchmark(a.recipe),
            agreement_chart(v, a),
            agreement_chart(v, a, narrow=True),
            a.correlation,
            len(a.spots),
        )
        for a in found
    ]
    return {"charts": charts, "choice": choice(v)}


def _trials(v: View) -> dict[str, Any]:
    order = sorted(
        v.results,
        key=lambda r: (
            not judged(r),
            r.status == "failed",
            -(r.objective if r.objective is not None else 0.0),
            r.number,
        ),
    )
    rows = [_trial(v, r) for r in order[:MOST_ROWS]]
    return {
        "open": rows[:OPEN_ROWS],
        "folded": rows[OPEN_ROWS:],
        "more": max(0, len(order) - MOST_ROWS),
        "recipe": len(v.recipes) > 1,
        "remarks": any(t["remark"] for t in rows),
        "accuracy": v.labelled and not v.oracle,
    }


def _trial(v: View, r: TrialResult) -> dict[str, Any]:
    remarks = ["stopped early"] if r.status == "stopped" else [r.status] if r.status != "finished" else []
    remarks += ["epoch chosen by target labels"] if r.selection == "oracle" else []
    remarks += [f"{k} {shown(value)} for want of memory" for k, value in r.adjusted.items()]
    return {
        "best": v.best is not None and any(r.id == t.id for t in v.best.trials),
        "id": r.id,
        "recipe": v.benchmark(r.recipe),
        "values": [a.text(r.values.get(a.name)) for a in v.columns]
        + [shown(r.values.get(s)) for s in v.seeds],
        "objective": v.number("objective", r.objective),
        "accuracy": v.number("accuracy", r.accuracy),
        "hours": hours_text(r.device_hours),
        "seconds": f"{r.seconds:.0f}",
        "remark": "; ".join(remarks),
    }


def _failures(v: View) -> list[tuple[str, int, list[str]]]:
    """(error, trials, what the first of them tried), the most frequent first."""
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    for r in v.results:
        if r.status == "failed":
            groups[r.error or "no reason was recorded"].append(r)
    return [
        (error, len(rs), [f"{r.id}: {v.setting_text(r)}" for r in rs[:5]])
        for error, rs in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _made(sweep: Sweep, v: View) -> dict[str, Any]:
    d, place = v.description, redact(sweep.url)
    return {
        "command": _command(v.description),
        "place": place,
        "base": [(k, shown(x)) for k, x in (d.get("base") or {}).items()],
        "overrides": [(k, shown(x)) for k, x in (d.get("overrides") or {}).items()],
        "search": [(k, shown(x)) for k, x in (d.get("search") or {}).items()],
        "axes": [
            (name, ", ".join(info.get("fields") or ()), _searched(info))
            for name, info in (d.get("axes") or {}).items()
        ],
        "tensorboard": f"tensorboard --logdir {shlex.quote(posixpath.join(place, 'tensorboard'))}",
    }


def _searched(info: Mapping[str, Any]) -> str:
    if info.get("kind") == "choice":
        return ", ".join(short(x) for x in info.get("values") or ())
    step = f" in steps of {info['step']}" if info.get("step", 1) != 1 else ""
    return f"{info.get('low')} to {info.get('high')}{step}{', logarithmic' if info.get('log') else ''}"


def _command(d: Mapping[str, Any]) -> str:
    """The command line of the sweep, as far as its description tells."""
    space, recipes = str(d.get("space", "")), list(d.get("recipes") or ())
    words = ["diffadapt", "sweep"] + ([] if space == "axes" else [space])
    words += ["--recipe", recipes[0]] if recipes else []
    words += ["--benchmarks", ",".join(recipes)] if len(recipes) > 1 else []
    if space == "axes":
        for name, info in (d.get("axes") or {}).items():
            values = (
                " ".join(map(str, x)) if isinstance(x, (list, tuple)) else shown(x)
                for x in info.get("values") or ()
            )
            words += ["--axis", f"{name}={','.join(values)}"]
    usual = SearchConfig()
    known = {f.name for f in fields(SearchConfig)}
    words += [
        w
        for k, x in (d.get("search") or {}).items()
        if k in known and x != getattr(usual, k)
        for w in (f"--search.{k}", shown(x))
    ]
    words += [
        w
        for k, x in (d.get("overrides") or {}).items()
        for w in (f"--{k}", *(map(str, x) if isinstance(x, (list, tuple)) else [shown(x)]))
    ]
    return " ".join(shlex.quote(w) for w in words)

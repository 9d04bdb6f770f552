"""What the page shows of one run: the numbers of `status`, `report` and `compare`, as JSON values."""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffadapt.core.errors import DiffadaptError, LostError
from diffadapt.core.foreign import parse
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.core.units import format_seconds
from diffadapt.report import provenance
from diffadapt.report.charts import bar_chart
from diffadapt.report.compare import comparison
from diffadapt.report.html import facts_of, score_view
from diffadapt.report.mask import masked
from diffadapt.report.sections import Page, report_of
from diffadapt.report.summary import metrics, summarise
from diffadapt.run.fit import recorded_failures
from diffadapt.run.state import done_of, seconds_left, state_of
from diffadapt.ui.index import left_of
from diffadapt.ui.work import RunFacts, StageFacts, Workshop

QUARANTINED = 100
"""Items of one answer."""
PROMPTS = 100
ERRORS = 256 << 10
"""Bytes of errors.log that are shown."""
FOOTERS = 0.5
"""Seconds for which the footers of a run that is going on are read, for what it has set apart."""


def overview(run: Run, ref: str, facts: RunFacts, status: Mapping[str, Any]) -> dict[str, Any]:
    """State, progress and stages: what `diffadapt status <run>` prints, and what its files add."""
    state = state_of(dict(status))
    done, total = done_of(status)
    running = state == "running"
    started = status.get("started")
    execution = provenance.optional_json(run, "execution.json")
    since = time.time() - started if running and isinstance(started, (int, float)) else None
    return {
        "run": ref,
        "name": run.name,
        "recipe": run.name.rpartition("-")[0],
        "state": state.partition(" ")[0],
        "said": state,
        "done": done,
        "total": total,
        "updated": status.get("updated") or 0,
        "job": masked(str(status.get("job") or "")),
        "error": masked(str(status.get("error") or "")),
        "left": left_of(dict(status)) if running else "",
        "took": format_seconds(since) if since is not None else provenance.duration(execution),
        "stages": [_stage(n, s, facts, running) for n, s in (status.get("nodes") or {}).items()],
        "warnings": provenance.warnings(run),
        "has": {
            "scores": run.has("scores.parquet"),
            "report": run.has("report.html"),
            "figures": run.has("figures/figures.json"),
            "errors": run.has("errors.log"),
            "curves": run.has("tensorboard"),
            "prompts": any(s.kind == "prompts" for s in facts.stages.values()),
            "stages": bool(facts.stages),
        },
        "quarantined": sum(int(n.get("quarantined") or 0) for n in (status.get("nodes") or {}).values()),
    }


def _stage(name: str, node: Mapping[str, Any], facts: RunFacts, running: bool) -> dict[str, Any]:
    known = facts.stages.get(name)
    done, total = int(node.get("done", 0)) + int(node.get("hits", 0)), int(node.get("shards", 0))
    step, steps = int(node.get("step") or 0), int(node.get("steps") or 0)
    share = done / total if total else 1.0
    if steps and done < total:
        share = max(share, step / steps)
    left = seconds_left(node) if running else None
    return {
        "name": name,
        "kind": known.kind if known else "",
        "inputs": list(known.inputs) if known else [],
        "done": done,
        "hits": int(node.get("hits", 0)),
        "failed": int(node.get("failed", 0)),
        "shards": total,
        "items": int(node.get("items", 0)),
        "step": step,
        "steps": steps if done < total else 0,
        "share": round(min(share, 1.0), 4),
        "rate": node.get("images_per_second") or 0,
        "left": format_seconds(left) if left is not None else "",
        "note": masked(str(node.get("note") or "")) if done < total else "",
        "quarantined": int(node.get("quarantined") or 0),
    }


def scores(run: Run, facts: RunFacts) -> dict[str, Any]:
    """The head, score tables, findings and charts of the report. StoreError where there are none yet, or they
    are damaged."""
    manifest, found = facts.manifest or run.manifest(), run.scores()
    page, own = Page(run, manifest, found), report_of(manifest)
    return {
        "head": facts_of(page, own),
        "tables": [_table(score_view(page, m)) for m in metrics(found)[: own.tables]],
        "figures": figures(run),
    }


def _table(view: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in view.items() if k not in ("main", "controls", "notes", "bars", "group_bars")}
    return {
        **plain,
        "rows": [asdict(r) for r in (*view["main"], *view["controls"])],
        "bars": [str(s) for s in view["bars"]],
        "group_bars": [str(s) for s in view["group_bars"]],
    }


def figures(run: Run) -> list[dict[str, str]]:
    """The captioned pictures of the run folder."""
    if not run.has("figures/figures.json"):
        return []
    try:
        listed = parse(run.read("figures/figures.json"))["sections"]
        found = [
            {k: masked(str(s.get(k) or "")) for k in ("title", "caption", "alt", "image")} for s in listed
        ]
        return [f for f in found if f["image"] and "/" not in f["image"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def quarantine(
    run: Run, facts: RunFacts, status: Mapping[str, Any], workshop: Workshop, offset: int
) -> dict[str, Any]:
    """Items that were set apart, with reasons: of quarantine.jsonl, or of the shards' footers while the run
    is going on."""
    whole, items = True, []
    if run.has("quarantine.jsonl"):
        for line in run.read("quarantine.jsonl").decode(errors="replace").splitlines():
            value = parse(line)
            items.append((str(value.get("node")), str(value.get("key")), str(value.get("reason"))))
    elif facts.manifest is not None and state_of(dict(status)) == "finished":
        items = provenance.quarantine(facts.manifest)
    else:
        whole, items = _live(facts, status, workshop)
    stages: dict[tuple[str, str], list[str]] = {}
    for stage, key, reason in items:  # what one stage could not use, those after it cannot either
        stages.setdefault((masked(key), masked(reason)), []).append(masked(stage))
    shown = list(stages.items())[max(0, offset) :][:QUARANTINED]
    return {
        "total": len(stages),
        "whole": whole,
        "items": [{"stages": names, "key": key, "reason": reason} for (key, reason), names in shown],
    }


def _live(
    facts: RunFacts, status: Mapping[str, Any], workshop: Workshop
) -> tuple[bool, list[tuple[str, str, str]]]:
    """(whether all was read, items) of the stages that say they have set something apart."""
    end, items = time.monotonic() + FOOTERS, []
    for name, node in (status.get("nodes") or {}).items():
        stage = facts.stages.get(name)
        if not stage or not int(node.get("quarantined") or 0):
            continue
        if stage.fit:
            try:
                items += [
                    (name, f.key, f.reason) for p in stage.paths for f in recorded_failures(workshop.store, p)
                ]
            except LostError:
                continue
        for shard in workshop.shelved(stage):
            if time.monotonic() > end:
                return False, items
            header = workshop.texts.get(("header", shard.path), lambda p=shard.path: workshop.store.header(p))
            items += [(name, f.key, f.reason) for f in header.failures]
    return True, items


def prompts(
    stage: StageFacts, facts: RunFacts, workshop: Workshop, text: str, label: int | None, offset: int
) -> dict[str, Any]:
    """The prompts that a stage wrote."""
    rows: list[dict[str, Any]] = []
    sources: dict[str, int] = {}
    total = 0
    for shard in workshop.shelved(stage):
        columns = workshop.columns(shard.path, ("key", "label", "category", "prompt", "source"))
        for key, number, category, prompt, source in zip(*columns.values(), strict=True):
            if (label is not None and number != label) or (text and text.lower() not in prompt.lower()):
                continue
            sources[source] = sources.get(source, 0) + 1
            if offset <= total < offset + PROMPTS:
                rows.append({"key": key, "class": category, "prompt": prompt, "source": source})
            total += 1
    return {"total": total, "prompts": masked(rows), "sources": masked(sources),
            "classes": list(facts.class_names)}  # fmt: skip


def settings(run: Run, facts: RunFacts) -> dict[str, Any]:
    """How it was made: command, settings, weights, versions. Of a run that has not ended what its recipe
    says."""
    manifest = facts.manifest
    if manifest is None:
        recipe = provenance.optional_json(run, "recipe.json")
        manifest = {"recipe": recipe.get("recipe", ""), "config": recipe.get("config") or {}}
    command, whole = provenance.command(run, manifest)
    execution = masked(provenance.optional_json(run, "execution.json"))
    return {
        "command": command,
        "whole": whole,
        "settings": provenance.settings(manifest),
        "weights": provenance.weights(manifest),
        "stages": provenance.stages(masked(manifest)),
        "versions": [(k, str(v)) for k, v in (manifest.get("versions") or {}).items()],
        "runner": str(execution.get("runner", "")),
        "folder": redact(run.url),
        "batch_sizes": [(k, str(v)) for k, v in (execution.get("batch_sizes") or {}).items()],
    }


def logs(run: Run, status: Mapping[str, Any]) -> dict[str, Any]:
    """What went wrong and what was said: errors.log, the recorded error, warnings."""
    text = run.read("errors.log") if run.has("errors.log") else b""
    return {
        "error": masked(str(status.get("error") or "")),
        "errors": redact(text[:ERRORS].decode(errors="replace")),
        "cut": len(text) > ERRORS,
        "warnings": provenance.warnings(run),
        "files": sorted(run.place.list(run.name)),
        "recorded": json.dumps(
            {k: masked(v) for k, v in status.items() if k not in ("nodes", "error")}, indent=1, default=str
        ),
    }


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """What `diffadapt compare` prints, and the chart of each run. StoreError for a run without a manifest or
    scores."""
    found = comparison(runs)
    charts, title = [], found.metric
    for run in runs:
        table = summarise(run.scores(), found.metric)
        title = table.metric_name
        charts.append([str(bar_chart(table)), str(bar_chart(table, narrow=True))])
    return {**asdict(found), "title": title, "charts": charts, "stages": _common(runs)}


def _common(runs: Sequence[Run]) -> list[str]:
    """Stages that all of the runs have."""
    names = [list(run.manifest()["nodes"]) for run in runs]
    return [n for n in names[0] if all(n in other for other in names[1:])]


def lead(run: Run) -> tuple[str, float, str] | None:
    """(method, mean, metric) of the run's own result; None without scores."""
    try:
        table = summarise(run.scores())
    except (DiffadaptError, ValueError, KeyError, TypeError):
        return None
    row = table.lead
    return None if row is None or row.mean is None else (row.title, row.mean, table.metric_name)


def file_of(run: Run, name: str) -> bytes:
    """A picture of the run's folder figures/, by the name of a file that lies there."""
    if name not in run.place.list(posixpath.join(run.name, "figures")):
        raise LostError(f"The run {run.name} has no figure {name[:80]!r}.")
    return run.read(posixpath.join("figures", name))

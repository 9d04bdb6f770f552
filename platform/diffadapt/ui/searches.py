"""What the page shows of a sweep: the table, remarks and trials that `status` and `report` print."""

from __future__ import annotations

from typing import Any

from diffadapt.core.redact import redact
from diffadapt.core.units import hours_text
from diffadapt.run.state import done_of, state_of
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.report.text import notes_of
from diffadapt.sweeps.report.view import View, view
from diffadapt.sweeps.result import TrialResult, values_text
from diffadapt.ui.index import left_of

TRIALS = 1000
"""Trials of one answer; sweep.parquet has all."""


def shown(sweep: Sweep, going_on: bool) -> dict[str, Any]:
    """State, settings, trials. StoreError when the folder holds no sweep."""
    found = view(sweep)
    status = sweep.status()
    done, total = done_of(status)
    ended = {r.id for r in found.results}
    open_ones = sorted(sweep.trials.list("") - ended) if going_on else []
    search = found.description.get("search") or {}
    state = state_of(status)
    return {
        "name": found.name,
        "space": str(found.description.get("space", found.name)),
        "recipes": list(found.recipes),
        "searcher": str(search.get("searcher", "")),
        "objective": found.objective,
        "state": state.partition(" ")[0],
        "said": state,
        "error": redact(str(status.get("error") or "")),
        "updated": status.get("updated") or 0,
        "done": done,
        "total": total,
        "ended": len(ended),
        "planned": found.planned,
        "left": left_of(status) if state == "running" else "",
        "columns": [a.label for a in found.columns],
        "metrics": [found.title(m) for m in found.metrics],
        "hours": found.hours,
        "settings": [_setting(found, s) for s in found.settings[:TRIALS]],
        "trials": [_trial(found, r) for r in found.results[:TRIALS]],
        "running": [t for t in (_open(sweep, name) for name in open_ones) if t],
        "notes": notes_of(found),
        "report": sweep.has("report.html"),
    }


def _setting(v: View, s: Any) -> dict[str, Any]:
    return {
        "values": [a.text(s.first.values.get(a.name)) for a in v.columns] or [v.setting_text(s.first)],
        "rank": "" if s.rank is None else f"{s.rank:.2f}",
        "metrics": [v.number(m, *v.summary(s.trials, m)) for m in v.metrics],
        "trials": len(s.trials),
        "complete": s.complete,
        "hours": hours_text(s.hours),
        "best": s is v.best,
    }


def _trial(v: View, r: TrialResult) -> dict[str, Any]:
    return {
        "id": r.id,
        "state": r.status,
        "values": values_text(r.values),
        "objective": v.number("objective", r.objective),
        "accuracy": "" if r.accuracy is None else f"{r.accuracy:.1f}",
        "seconds": round(r.seconds, 1),
        "made": r.made,
        "found": r.found,
        "error": r.error,
    }


def _open(sweep: Sweep, name: str) -> dict[str, Any] | None:
    status = sweep.trial(name).status()
    if state_of(status) != "running":
        return None
    done, total = done_of(status)
    return {"id": name, "done": done, "total": total, "left": left_of(status)}

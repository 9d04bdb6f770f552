"""What the page answers: a path and its query in, bytes out. Knows no web framework, and no path of a request
ever becomes the path of a file: names are looked up among those that are there."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt import __version__
from diffadapt.core.errors import DamagedError, DiffadaptError, LostError, MissingError, StoreError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.report.page import style_sheet
from diffadapt.sweeps.folder import Sweep
from diffadapt.ui import curves, searches, shown
from diffadapt.ui.gallery import ORDERS, PAGE, Gallery, Wanted
from diffadapt.ui.guard import CONTENT_POLICY, REPORT_POLICY
from diffadapt.ui.index import Entry, Index, Shelf, left_of
from diffadapt.ui.inside import InsideRoot, Outside
from diffadapt.ui.work import Kept, RunFacts, Workshop

log = logging.getLogger(__name__)
STATIC = Path(__file__).with_name("static")
ROWS = 100
"""Runs of one answer at most, unless it asks for more."""
LEADS = 0.2
"""Seconds that a list spends on results that it does not know yet."""
PATHS = {
    "/": ("index.html", "text/html"),
    "/ui.css": ("ui.css", "text/css"),
    "/ui.js": ("ui.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
FOREVER = "private, max-age=31536000, immutable"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    kind: str = "application/json"
    cache: str = "no-cache"
    policy: str = CONTENT_POLICY


class Query:
    """The parameters of a request. StoreError, in a sentence, for those that lack or are none."""

    def __init__(self, values: Mapping[str, list[str]]):
        self.values = values

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[0]

    def all(self, name: str) -> list[str]:
        return self.values.get(name, [])

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise BadQuery(f"{name} must be a whole number from 0 on.")
        return int(text)

    def label(self) -> int | None:
        return self.number("class") if self.text("class") else None

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        text = self.text(name, known[0])
        if text not in known:
            raise BadQuery(f"{name} must be one of {', '.join(filter(None, known))}.")
        return text


class BadQuery(DiffadaptError):
    """A parameter that nobody can answer."""


class Answers:
    """Everything that can be asked of a root. Threads may ask at once."""

    def __init__(self, location: str):
        self.root = InsideRoot(location)
        self.index = Index(self.root)
        self.workshop = Workshop(self.root.store)
        self._made = Kept(64)
        self._leads = Kept(20_000)
        self._static = {
            path: Reply(200, (STATIC / file).read_bytes(), f"{kind}; charset=utf-8")
            for path, (file, kind) in PATHS.items()
        }
        self.index.fresh(0.0)  # begin to read before somebody asks
        self._static["/style.css"] = Reply(200, str(style_sheet()).encode(), "text/css; charset=utf-8")
        self._paths: dict[str, Callable[[Query], Reply | Any]] = {
            "/api/root": self._root,
            "/api/runs": lambda q: self._list(q, self.index.runs),
            "/api/sweeps": lambda q: self._list(q, self.index.sweeps),
            "/api/run": self._run,
            "/api/scores": self._scores,
            "/api/galleries": self._galleries,
            "/api/pictures": self._pictures,
            "/api/quarantine": self._quarantine,
            "/api/prompts": self._prompts,
            "/api/settings": self._settings,
            "/api/logs": self._logs,
            "/api/curves": self._curves,
            "/api/compare": self._compare,
            "/api/sweep": self._sweep,
            "/image": self._image,
            "/figure": self._figure,
            "/report": self._report,
        }

    def __call__(self, path: str, query: Mapping[str, list[str]]) -> Reply:
        """The reply to one request; never raises."""
        if path in self._static:
            return self._static[path]
        answer = self._paths.get(path)
        if answer is None:
            return said("There is nothing at this address.", 404)
        try:
            found = answer(Query(query))
            return found if isinstance(found, Reply) else as_json(found)
        except BadQuery as error:
            return said(str(error), 400)
        except Outside as error:
            return said(str(error), 403)
        except DamagedError as error:
            return said(str(error), 500)
        except LostError as error:
            return said(str(error), 404)
        except DiffadaptError as error:
            return said(str(error), 500)
        except Exception as error:
            log.exception("%s could not be answered.", path)
            return said(f"The page failed at this ({type(error).__name__}); its log says why.", 500)

    # -- lists
    # ---------------------------------------------------------------------------------------------------
    def _root(self, query: Query) -> Any:
        whole = self.index.fresh()
        states: dict[str, int] = {}
        for entry in self.index.runs.entries.values():
            states[word(entry)] = states.get(word(entry), 0) + 1
        return {
            "root": redact(self.root.location),
            "version": __version__,
            "whole": whole,
            "error": self.index.error,
            "runs": len(self.index.runs.entries),
            "sweeps": len(self.index.sweeps.entries),
            "states": states,
        }

    def _list(self, query: Query, shelf: Shelf) -> Any:
        """Runs or sweeps, newest first, or by ``sort``; of those that ``q`` and ``state`` let through."""
        whole = self.index.fresh()
        text, state = query.text("q").lower(), query.text("state")
        entries = [e for n in shelf.order if (e := shelf.entries.get(n))]
        states: dict[str, int] = {}
        for entry in entries:
            states[word(entry)] = states.get(word(entry), 0) + 1
        found = [e for e in entries if text in e.name.lower() and (not state or word(e) == state)]
        sort = query.choice("sort", ("newest", "oldest", "name", "state", "done"))
        if sort != "newest":
            found.sort(key=SORTS[sort])
        start, many = query.number("offset"), min(query.number("limit", ROWS), 10 * ROWS)
        rows, end = [], time.monotonic() + LEADS
        for entry in found[start : start + many]:
            row = _row(entry)
            if shelf is self.index.runs and (result := self._lead(entry, end)):
                row["method"], row["mean"], row["metric"] = result
            rows.append(row)
        return {
            "whole": whole,
            "unread": shelf.left,
            "error": self.index.error,
            "all": len(entries),
            "total": len(found),
            "states": states,
            "rows": rows,
        }

    def _lead(self, entry: Entry, end: float) -> tuple[str, float, str] | None:
        """The result of a finished run, if it is known or there is time to read it."""
        if entry.status.get("state") != "finished":
            return None
        key = (entry.name, entry.updated)
        left = time.monotonic() < end
        if not left and key not in self._leads:
            return None
        found = self._leads.get(key, lambda: shown.lead(Run(self.root, entry.name)))
        return found if found is None or math.isfinite(found[1]) else None

    # -- one run
    # -------------------------------------------------------------------------------------------------
    def _find(self, ref: str) -> Run:
        """The run of a name, or the trial of sweep:trial, among those that are there."""
        name, colon, trial = ref.partition(":")
        if colon:
            sweep = self._find_sweep(name)
            if trial in sweep.trials.list(""):
                return sweep.trial(trial)
        elif name and (name in self.index.runs.entries or name in self.root.runs.list("")):
            return Run(self.root, name)
        raise MissingError(f"There is no run {redact(ref)[:120]!r} under {redact(self.root.location)}.")

    def _find_sweep(self, name: str) -> Sweep:
        if name and (name in self.index.sweeps.entries or name in self.root.sweeps.list("")):
            return Sweep(self.root, name)
        raise MissingError(f"There is no sweep {redact(name)[:120]!r} under {redact(self.root.location)}.")

    def _known(self, query: Query) -> tuple[Run, RunFacts, dict[str, Any]]:
        run = self._find(query.text("run"))
        status = run.status()
        return run, self.workshop.facts(run, status), status

    def _kept(self, what: str, ref: str, status: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What is made of a run that has ended, once."""
        if status.get("state") != "finished":
            return make()
        return self._made.get((what, ref, status.get("updated")), make)

    def _run(self, query: Query) -> Any:
        run, facts, status = self._known(query)
        return shown.overview(run, query.text("run"), facts, status)

    def _scores(self, query: Query) -> Any:
        run, facts, status = self._known(query)
        return self._kept("scores", query.text("run"), status, lambda: shown.scores(run, facts))

    def _settings(self, query: Query) -> Any:
        run, facts, _ = self._known(query)
        return shown.settings(run, facts)

    def _logs(self, query: Query) -> Any:
        run, _, status = self._known(query)
        return {**shown.logs(run, status), "fits": curves.fits(run)}

    def _curves(self, query: Query) -> Any:
        run, fit = self._find(query.text("run")), query.text("fit")
        if fit not in curves.fits(run):
            raise MissingError(f"The run {run.name} has no training {redact(fit)[:80]!r} with curves.")
        found = curves.scalars(run, fit)
        return {
            "fit": fit,
            "curves": [
                {"name": name, "last": series[-1][1], "step": series[-1][0],
                 "svg": [str(curves.curve(name, series)), str(curves.curve(name, series, narrow=True))]}
                for name, series in found.items() if series
            ],
        }  # fmt: skip

    def _quarantine(self, query: Query) -> Any:
        run, facts, status = self._known(query)
        return shown.quarantine(run, facts, status, self.workshop, query.number("offset"))

    def _prompts(self, query: Query) -> Any:
        _, facts, _ = self._known(query)
        stages = [s for s in facts.stages.values() if s.kind == "prompts"]
        if not stages:
            raise MissingError("The run has no stage that writes prompts.")
        return shown.prompts(
            stages[0], facts, self.workshop, query.text("q"), query.label(), query.number("offset")
        )  # fmt: skip

    # -- pictures
    # ------------------------------------------------------------------------------------------------
    def _galleries(self, query: Query) -> Any:
        run, facts, _ = self._known(query)
        found = []
        for stage in facts.stages.values():
            shelved = self.workshop.shelved(stage)
            if self.workshop.holds_images(stage, shelved):
                found.append({
                    "stage": stage.name, "kind": stage.kind, "shards": len(shelved),
                    "planned": len(stage.paths), "judged": bool(facts.judges_of(stage.name)),
                })  # fmt: skip
        in_place = [s.name for s in facts.stages.values() if not s.folder and s.kind in ("images", "scenes")]
        return {"stages": found, "classes": list(facts.class_names), "in_place": in_place,
                "told": bool(facts.stages)}  # fmt: skip

    def _gallery(self, query: Query) -> Gallery:
        _, facts, _ = self._known(query)
        return Gallery(self.workshop, facts, query.text("stage"))

    def _pictures(self, query: Query) -> Any:
        wanted = Wanted(
            order=query.choice("order", ORDERS),
            only=query.choice("only", ("", "kept", "out")),
            text=query.text("q"),
            label=query.label(),
            after=query.text("after"),
            limit=query.number("limit", PAGE),
        )
        return self._gallery(query).page(wanted)

    def _image(self, query: Query) -> Reply:
        data, kind = self._gallery(query).image(
            query.text("shard"),
            query.number("row"),
            query.choice("column", ("image", "annotation")),
            bool(query.text("small")),
        )
        return Reply(200, data, kind, FOREVER)

    # -- files of the run folder
    # ---------------------------------------------------------------------------------
    def _figure(self, query: Query) -> Reply:
        data = shown.file_of(self._find(query.text("run")), query.text("name"))
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return Reply(200, data, "image/png")
        if data.startswith(b"\xff\xd8\xff"):
            return Reply(200, data, "image/jpeg")
        raise StoreError("The figure is neither PNG nor JPEG.")

    def _report(self, query: Query) -> Reply:
        name = query.text("sweep")
        run = self._find_sweep(name) if name else self._find(query.text("run"))
        if not run.has("report.html"):
            raise MissingError(
                f"{run.name} has no report yet: it is written at its end, or by `diffadapt report"
                f" {run.name}`."
            )
        return Reply(200, run.read("report.html"), "text/html; charset=utf-8", policy=REPORT_POLICY)

    # -- several
    # -------------------------------------------------------------------------------------------------
    def _compare(self, query: Query) -> Any:
        refs = list(dict.fromkeys(query.all("run")))
        if len(refs) < 2:
            raise BadQuery("A comparison needs two runs or more.")
        runs = [self._find(ref) for ref in refs]
        key = ("compare", *((ref, run.status().get("updated")) for ref, run in zip(refs, runs, strict=True)))
        return self._made.get(key, lambda: {"refs": refs, **shown.compared(runs)})

    def _sweep(self, query: Query) -> Any:
        sweep = self._find_sweep(query.text("sweep"))
        status = sweep.status()
        going_on = status.get("state") == "running"
        return self._kept("sweep", sweep.name, status, lambda: searches.shown(sweep, going_on))


def word(entry: Entry) -> str:
    """The state in one word."""
    return entry.state.partition(" ")[0]


SORTS: dict[str, Callable[[Entry], Any]] = {
    "oldest": lambda e: (e.updated, e.name),
    "name": lambda e: e.name,
    "state": lambda e: (word(e), -e.updated),
    "done": lambda e: (e.done / e.total if e.total else 0.0, e.name),
}


def _row(entry: Entry) -> dict[str, Any]:
    state = word(entry)
    return {
        "name": entry.name,
        "state": state,
        "said": entry.state,
        "done": entry.done,
        "total": entry.total,
        "quarantined": entry.quarantined,
        "updated": entry.updated,
        "left": left_of(entry.status) if state == "running" else "",
        "error": redact(str(entry.status.get("error") or "")),
    }


def as_json(value: Any) -> Reply:
    """``value`` as JSON; what is no number there (NaN, infinity) is null."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), default=str)
    return Reply(200, text.encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def said(sentence: str, status: int) -> Reply:
    """A refusal or failure in one sentence."""
    return Reply(status, json.dumps({"error": redact(sentence)}).encode())

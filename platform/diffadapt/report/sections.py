"""What a report says beside its tables: sections, each a file, and what a system says of its own runs.

A :class:`Section` of one's own is a file in a folder that DIFFADAPT_SECTIONS names; it is in every report
whose run gives it data. A system's :class:`SystemReport` is found by the system's name, in
``systems/<name>/report.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup

from diffadapt.core.discover import Seam
from diffadapt.core.record import Score
from diffadapt.core.runs import Run
from diffadapt.report.page import load_page
from diffadapt.report.roles import system
from diffadapt.report.summary import Summary, summarise


@dataclass(frozen=True)
class Page:
    """What a report is made from: the run folder, its manifest, its scores."""

    run: Run
    manifest: Mapping[str, Any]
    scores: Sequence[Score]

    @cached_property
    def table(self) -> Summary:
        """The rows of the run's first metric."""
        return summarise(self.scores)


def tile(name: str, value: float | None, error: float | None, step: str) -> dict[str, str]:
    """A large figure of a page's head: ``step`` stands under it."""
    spread = "" if error is None else f"± {error:.1f}"
    return {"name": name, "value": f"{value:.1f}", "error": spread, "step": step}


class Section:
    """A part of a report. ``title`` is its heading (empty: its HTML has headings of its own)."""

    title: ClassVar[str] = ""

    def data(self, page: Page) -> Any:
        """The section's values, read from the run; None leaves the section out."""
        raise NotImplementedError

    def html(self, data: Any) -> str:
        """The section's body. Markup (markupsafe) is taken as it is, a plain string is escaped. By default
        the template ``<file>.html.j2`` beside the class's file, which sees the values as ``data``."""
        file = Path(str(sys.modules[type(self).__module__].__file__))
        return Markup(load_page(f"{file.stem}.html.j2", file.parent).render(data=data))


class SystemReport(Section):
    """What a system says of its own runs; this class says it of runs of no known system."""

    tables: ClassVar[int | None] = None
    """How many metrics have a score table of their own (the rest is the section's); None: all."""

    def data(self, page: Page) -> Any:
        return None

    def what(self, page: Page) -> str:
        """The system and its protocol, as the beginning of a sentence."""
        return "Adaptation of a classifier without target labels" if page.table.rows else ""

    def tiles(self, page: Page) -> list[dict[str, str]] | None:
        """Large figures: ``name``, ``value``, ``error``, ``step``; None: the reference and what builds on
        it."""
        return None

    def findings(
        self, table: Summary, scores: Sequence[Score], manifest: Mapping[str, Any]
    ) -> list[str] | None:
        """What the rows of ``table`` show, a sentence an entry; None: what their roles say."""
        return None

    def without_scores(self, run: Run, manifest: Mapping[str, Any]) -> str:
        """What a terminal shows of a run without scores."""
        return ""


SECTIONS = Seam("report section", "diffadapt.report.own", "DIFFADAPT_SECTIONS", Section)


def report_of(manifest: Mapping[str, Any]) -> SystemReport:
    """The report of the run's system: of ``systems/<name>/report.py``, where there is one."""
    seam = Seam("system's report", f"diffadapt.systems.{system(manifest)}", "", SystemReport)
    try:
        known = "report" in seam.names()
    except (ImportError, AttributeError):  # no package of ours: a system of one's own
        known = False
    return seam.load("report")() if known else SystemReport()


def own_sections() -> list[Section]:
    """The sections of the folders that DIFFADAPT_SECTIONS names, by file name. RecipeError for a file that
    cannot be imported or holds no or several sections."""
    return [section() for section in SECTIONS.all().values()]

"""What a report says beside its tables: sections, each a file, and what a system says of its own runs.

A :class:`Section` of one's own is a file in a folder that DIFFADAPT_SECTIONS names; it is in every report
whose run gives it data. A system's :class:`SystemReport` is found by the system's name, in
``systems/<name>/report.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from markupsafe import Markup

from diffadapt.core.errors import RecipeError
from diffadapt.core.record import Score
from diffadapt.core.runs import Run
from diffadapt.report.page import load_page
from diffadapt.report.roles import system
from diffadapt.report.summary import Summary, summarise

VARIABLE = "DIFFADAPT_SECTIONS"


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
        """Large figures: ``name``, ``value``, ``error``, ``step``; None: the reference and the rows that build
        on it."""
        return None

    def findings(
        self, table: Summary, scores: Sequence[Score], manifest: Mapping[str, Any]
    ) -> list[str] | None:
        """What the rows of ``table`` show, a sentence an entry; None: what their roles say."""
        return None

    def without_scores(self, run: Run, manifest: Mapping[str, Any]) -> str:
        """What a terminal shows of a run without scores."""
        return ""


def report_of(manifest: Mapping[str, Any]) -> SystemReport:
    """The report of the run's system: of ``systems/<name>/report.py``, where there is one."""
    name = f"diffadapt.systems.{system(manifest)}.report"
    try:
        known = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of a system of one's own
        known = None
    return _the_one(importlib.import_module(name), SystemReport) if known else SystemReport()


def own_sections() -> list[Section]:
    """The sections of the folders that DIFFADAPT_SECTIONS names (separated as the system separates paths), by
    file name. RecipeError for a file that cannot be imported or holds no or several sections."""
    folders = [Path(f) for f in os.environ.get(VARIABLE, "").split(os.pathsep) if f]
    files = sorted((f for folder in folders for f in folder.glob("[!_]*.py")), key=lambda f: f.name)
    return [_the_one(_load(file), Section) for file in files]


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"diffadapt_own_section_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes of a file find it through their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(
            f"The section file {file.name} cannot be loaded ({type(error).__name__}: {error}): mend it or move"
            f" it out of {file.parent.name}/."
        ) from error
    return module


def _the_one(module: ModuleType, base: type) -> Any:
    """The piece of ``base`` that a module defines."""
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    pieces = [c for c in own if issubclass(c, base)]
    if len(pieces) != 1:
        raise RecipeError(
            f"The file {Path(str(module.__file__)).name} must hold exactly one class that extends"
            f" {base.__name__}; it holds {len(pieces)}."
        )
    return pieces[0]()

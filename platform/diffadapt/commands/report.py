"""``diffadapt report`` and ``diffadapt compare``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from diffadapt.commands.options import RootOption, parse

if TYPE_CHECKING:
    from diffadapt.core.runs import Root, Run
    from diffadapt.sweeps.folder import Sweep


@dataclass(frozen=True)
class ReportOptions(RootOption):
    run: tyro.conf.Positional[str] = "last"
    """A run's name or prefix, or 'last'; or a sweep's name or prefix."""


def report(argv: Sequence[str]) -> int:
    from diffadapt.commands.common import show_result
    from diffadapt.report.html import write_report

    options = parse(ReportOptions, argv, "report")
    root = options.open()
    if (sweep := find_sweep(root, options.run)) is not None:
        return _sweep(sweep)
    run = _run(root, options.run)
    run.manifest()
    write_report(run)
    show_result(run)
    return 0


def find_sweep(root: Root, name: str) -> Sweep | None:
    """The sweep ``name`` (a name, its unique prefix, or a path ending in it); None where a run has the better
    claim: 'last', a run's whole name, or when no sweep fits. StoreError when several sweeps fit, or runs and
    sweeps alike."""
    from diffadapt.core.errors import StoreError
    from diffadapt.sweeps.folder import Sweep, sweeps

    short = name.rstrip("/").split("/")[-1]
    known = [] if short == "last" else sweeps(root)
    if short in known:
        return Sweep(root, short)
    fitting = [n for n in known if n.startswith(short)]
    if not fitting:
        return None
    runs = root.names()
    if short in runs:
        return None
    if fitting and (others := fitting[1:] + [n for n in runs if n.startswith(short)]):
        raise StoreError(
            f"{name!r} fits several: {', '.join([fitting[0], *others][:5])}; give more of the name."
        )
    return Sweep(root, fitting[0])


def _run(root: Root, name: str) -> Run:
    """The run ``name``; StoreError with the nearest sweep's name where there is no such run either."""
    from diffadapt.core.errors import StoreError, suggest
    from diffadapt.sweeps.folder import sweeps

    try:
        return root.run(name)
    except StoreError as error:
        short = name.rstrip("/").split("/")[-1]
        known = {n.rpartition("-")[0]: n for n in sweeps(root)}
        near = (
            suggest(short, known.values())
            or suggest(short, known)
            or suggest(short, {n.split("-")[0] for n in known})
        )
        raise StoreError(
            f"{error}{near.replace('Did you mean', 'Or is the sweep meant') if near else ''}"
        ) from None


def _sweep(sweep: Sweep) -> int:
    """Table and report of a sweep, and its recommended recipe, from what has ended so far."""
    from diffadapt.run.sweep import finish_sweep

    description = sweep.description()
    finish_sweep(
        sweep, list(description.get("axes") or ()), description.get("overrides") or {}, sweep.results()
    )
    show_sweep(sweep)
    return 0


def show_sweep(sweep: Sweep) -> None:
    """The table of a sweep and the places of its results."""
    from diffadapt.core.redact import redact
    from diffadapt.sweeps.report.page import sweep_text

    print("\n" + sweep_text(sweep))
    place = redact(sweep.url)
    print(f"\nsweep       {sweep.name}")
    for label, file in (
        ("report", "report.html"),
        ("table", "sweep.parquet"),
        ("recommended", "recommended.json"),
    ):
        if sweep.has(file):
            print(
                f"{label:<11} {place}/{file}"
                + (f"   (diffadapt run {shlex.quote(f'{place}/{file}')})" if label == "recommended" else "")
            )


@dataclass(frozen=True)
class CompareOptions(RootOption):
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Two or more run names or prefixes."""


def compare(argv: Sequence[str]) -> int:
    from diffadapt.core.errors import StoreError
    from diffadapt.report.compare import compare as table

    options = parse(CompareOptions, argv, "compare")
    if len(options.runs) < 2:
        raise StoreError("compare needs two runs or more; `diffadapt status` lists them.")
    root = options.open()
    print(table([root.run(name) for name in options.runs]))
    return 0

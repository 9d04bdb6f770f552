"""The report of a sweep: text for the terminal and report.html."""

from __future__ import annotations

from diffadapt.sweeps.folder import Sweep


def write_report(sweep: Sweep) -> None:
    """report.html of the sweep's folder, from its trials' results alone."""


def sweep_text(sweep: Sweep) -> str:
    """The best settings as a table for the terminal."""
    rows = sorted(sweep.results(), key=lambda r: (r.objective is None, -(r.objective or 0)))
    return "\n".join(f"{r.id}  {r.values}  {r.objective}  {r.accuracy}" for r in rows)

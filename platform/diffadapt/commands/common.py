"""What several commands do: a run's result on the terminal."""

from __future__ import annotations

import sys

from diffadapt.core import terminal
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run

PLACES = (
    ("report", "report.html"),
    ("model", "model/config.json"),
    ("predicted", "predictions.parquet"),
    ("scores", "scores.parquet"),
    ("logs", "tensorboard"),
    ("failed", "quarantine.jsonl"),
)
"""What a run folder may hold: a label and a file that is there when it does."""


SHOWN = 3
"""Findings under the table, and warnings above it; the report has them all."""
REMARK = "Remark:"
"""How a finding begins that says what the run does not show."""


def show_result(run: Run) -> None:
    """What the stages warned of and the places of the results; then the score table, its notes above it, and
    under it, so that it stays in sight, at most SHOWN findings: rows that have collapsed, what the run does
    not show, then what it shows. Lines are wrapped to a terminal's width, and whole elsewhere."""
    from diffadapt.report.findings import findings
    from diffadapt.report.own.collapsed import collapsed_sentences
    from diffadapt.report.provenance import warnings
    from diffadapt.report.sections import report_of
    from diffadapt.report.table import clean_text, score_table

    def say(sentence: str) -> None:
        text = clean_text(sentence)
        print(terminal.wrapped(text, terminal.columns()) if sys.stdout.isatty() else f"  {text}")

    scores = run.scores() if run.has("scores.parquet") else []
    manifest = run.manifest() if run.has("manifest.json") else {}
    whole = run.has("report.html")
    said = warnings(run)
    first = said[:SHOWN] if whole else said
    if first:
        print()
    for sentence in first:
        say(f"Warning: {sentence}")
    _places(run)
    collapsed = [f"Warning: {sentence}" for sentence in collapsed_sentences(run)]
    found = findings(scores, manifest=manifest) if scores else []
    remarks = [f for f in found if f.startswith(REMARK)]
    found = [*collapsed, *remarks, *(f for f in found if f not in remarks)]
    if scores:
        print("\n" + score_table(scores, notes_first=True).rstrip("\n"))
    elif manifest and (text := report_of(manifest).without_scores(run, manifest)):
        print("\n" + text.rstrip("\n"))
    shown = found[:SHOWN] if whole else found
    if shown:
        print()
    for sentence in shown:
        say(sentence)
    rest = [
        f"{count} more {name}{'s' * (count != 1)}"
        for count, name in ((len(found) - len(shown), "finding"), (len(said) - len(first), "warning"))
        if count
    ]
    if rest:
        say(f"{' and '.join(rest)}: {redact(run.url)}/report.html")


def _places(run: Run) -> None:
    place = redact(run.url)
    print(f"\nrun       {run.name}")
    for label, file in PLACES:
        if run.has(file):
            shown = file.partition("/")[0] if label == "model" else file
            print(
                f"{label:<9} {place}/{shown}"
                + (f"   (tensorboard --logdir {place}/tensorboard)" if label == "logs" else "")
            )

"""What several commands do: a run's result on the terminal."""

from __future__ import annotations

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


WARNINGS_SHOWN = 8


def show_result(run: Run) -> None:
    """The score table, what it shows, what the stages warned of, and the places of the results."""
    from diffadapt.report.findings import findings
    from diffadapt.report.own.collapsed import collapsed_sentences
    from diffadapt.report.provenance import warnings
    from diffadapt.report.sections import report_of
    from diffadapt.report.table import clean_text, score_table

    scores = run.scores() if run.has("scores.parquet") else []
    manifest = run.manifest() if run.has("manifest.json") else {}
    if scores:
        print("\n" + score_table(scores))
        for sentence in findings(scores, manifest=manifest):
            print(f"  {sentence}")
    elif manifest and (text := report_of(manifest).without_scores(run, manifest)):
        print("\n" + text)
    said = [*collapsed_sentences(run), *warnings(run)]
    for sentence in said[:WARNINGS_SHOWN]:
        print(f"  Warning: {clean_text(sentence)}")
    if len(said) > WARNINGS_SHOWN:
        print(f"  {len(said) - WARNINGS_SHOWN} more warnings are in the report.")
    place = redact(run.url)
    print(f"\nrun       {run.name}")
    for label, file in PLACES:
        if run.has(file):
            shown = file.partition("/")[0] if label == "model" else file
            print(
                f"{label:<9} {place}/{shown}"
                + (f"   (tensorboard --logdir {place}/tensorboard)" if label == "logs" else "")
            )

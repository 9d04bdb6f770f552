"""``diffadapt run``: make what is missing, print the table, say where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffadapt.commands.options import RootOption, parse_recipe
from diffadapt.core.runs import Run
from diffadapt.core.store import redact
from diffadapt.run.runner import ExecutionConfig, Runner


@dataclass(frozen=True)
class RunOptions(RootOption):
    pass


def run(argv: Sequence[str]) -> int:
    import time

    from diffadapt.commands.plan import format_plan
    from diffadapt.core.config import changes
    from diffadapt.core.plan import summarise
    from diffadapt.core.recipes import load
    from diffadapt.core.units import format_seconds
    from diffadapt.run.drive import drive

    name, recipe, options = parse_recipe(RunOptions, argv, "run")
    started = time.monotonic()
    root = options.open()
    pipeline = recipe.pipeline()
    summary = summarise(pipeline.plan(root.store), root.store)
    print(
        format_plan(name, summary) if summary.missing else f"{name}: everything is in the store", flush=True
    )
    finished = drive(
        name,
        recipe,
        pipeline,
        root,
        lambda: make_runner(recipe.execution),
        overrides=changes(load(name), recipe),
    )
    show_result(finished)
    print(f"\n{format_seconds(time.monotonic() - started)}")
    return 0


def make_runner(config: ExecutionConfig) -> Runner:
    """The runner that a recipe's execution settings ask for."""
    import diffadapt.orchestrate  # noqa: F401  # hands in what a local run may ask for too

    wanted = config.runner
    if wanted == "auto":
        import importlib.util

        wanted = "ray" if importlib.util.find_spec("ray") else "local"
    if wanted == "local":
        from diffadapt.run.local import LocalRunner

        return LocalRunner(config)
    from diffadapt.orchestrate.runner import RayRunner

    return RayRunner(config)


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
    from diffadapt.report.ladder import is_adaptation
    from diffadapt.report.table import clean_text, score_table
    from diffadapt.report.unlabelled import unlabelled_text
    from diffadapt.systems.adapt_anything.report import warnings

    scores = run.scores() if run.has("scores.parquet") else []
    manifest = run.manifest() if run.has("manifest.json") else {}
    if scores:
        print("\n" + score_table(scores))
        for sentence in findings(scores, manifest=manifest):
            print(f"  {sentence}")
    elif is_adaptation(manifest):
        print("\n" + unlabelled_text(run, manifest))
    said = warnings(run)
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

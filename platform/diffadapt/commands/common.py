"""What several commands do: the runner that settings ask for, the plan as a table, a run's result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.errors import ResourceError
from diffadapt.core.estimate import Estimate, StageEstimate
from diffadapt.core.plan import NodeSummary, PlanSummary
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.core.units import format_seconds
from diffadapt.run.choice import choose
from diffadapt.run.runner import ExecutionConfig, Runner


def format_plan(
    name: str, summary: PlanSummary, guess: Estimate | None = None, execution: ExecutionConfig | None = None
) -> str:
    """The plan as a table; stages that differ by transfer or seed alone (their names from the first dot on)
    share a line. With ``execution`` it says where the work would be done."""
    groups: dict[str, list[NodeSummary]] = {}
    for n in summary.nodes:
        groups.setdefault(n.name.partition(".")[0], []).append(n)
    times = {s.name: s for s in guess.stages} if guess else {}
    more = f" {'device time':>15}  known from" if times else ""
    titles = {
        stem: f"{stem} (x{len(nodes)})" if len(nodes) > 1 else nodes[0].name for stem, nodes in groups.items()
    }
    width = max([34, *map(len, titles.values())])
    lines = [
        f"{name}: {summary.missing} of {summary.shards} shards to make"
        + (f", {choose(execution)}" if execution and summary.missing else ""),
        "",
        f"  {'stage':<{width}} {'shards':>8} {'to make':>8} {'images':>10} {'to make':>10}{more}",
    ]
    for stem, nodes in groups.items():
        sums = [
            sum(getattr(n, field) for n in nodes) for field in ("shards", "missing", "items", "missing_items")
        ]
        known = _time([times[n.name] for n in nodes if n.name in times])
        lines.append(
            f"  {titles[stem]:<{width}} {sums[0]:>8} {sums[1]:>8} {sums[2]:>10} {sums[3]:>10}{known}"
        )
    return "\n".join(lines)


def _time(stages: Sequence[StageEstimate]) -> str:
    if not stages:
        return ""
    sources = list(dict.fromkeys(s.source() for s in stages))
    known = [s for s in stages if s.seconds is not None]
    spent = sum(s.seconds or 0.0 for s in known)
    amount = "" if not known else format_seconds(spent) if spent >= 10 else f"{spent:.1f} s"
    return (
        f" {('>= ' if known and len(known) < len(stages) else '') + amount:>15} "
        f" {'; '.join(sources[:2])}{'; ...' if len(sources) > 2 else ''}"
    )


def make_runner(config: ExecutionConfig) -> Runner:
    """The runner that a recipe's execution settings ask for."""
    import diffadapt.orchestrate  # noqa: F401  # hands in what a local run may ask for too

    choice = choose(config)
    if choice.runner == "ray":
        from diffadapt.orchestrate.runner import RayRunner

        return RayRunner(config)
    if choice.workers > 1:
        from diffadapt.run.local_pool import LocalPool

        return LocalPool(config, choice.workers)
    from diffadapt.run.local import LocalRunner

    return LocalRunner(config)


def nothing_read(images: str, failed: Mapping[str, str]) -> str:
    """The sentence for images of which none could be predicted; ``failed``: path -> reason."""
    path, reason = next(iter(failed.items()))
    return (
        f"None of the {len(failed):,} images of {redact(images)} can be predicted; the first, {path}:"
        f" {reason}"
    )


def failures_said(failed: Mapping[str, str], place: str) -> str:
    """The sentence for images that were left out; ``place``: the run folder."""
    one = len(failed) == 1
    return (
        f"{len(failed):,} image{'' if one else 's'} could not be read: the table and"
        f" {redact(place)}/quarantine.jsonl name {'it' if one else 'them'} and say why."
    )


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


def cluster_layout(config: ExecutionConfig) -> tuple[Any, list[dict[str, float]]] | None:
    """(layout, nodes) of ``config`` on the cluster that --execution.address or RAY_ADDRESS names; None where
    none is named.

    ResourceError, within seconds, for one that does not answer or cannot host what is asked for.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    if config.runner == "local" or not address:
        return None
    try:
        from diffadapt.orchestrate.capacity import cluster_nodes
        from diffadapt.orchestrate.resources import plan_layout
    except ImportError:
        raise ResourceError(
            f"A cluster is named ({address}), but Ray is not installed: install ray[default,data,train,tune],"
            " or leave the address out."
        ) from None
    nodes = cluster_nodes(address)
    return plan_layout(config, nodes), nodes

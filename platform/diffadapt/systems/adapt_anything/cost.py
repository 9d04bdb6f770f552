"""Whether images should be generated at all: the steps beside CLIP's own predictions and a network that they
alone taught, each with what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core.runs import Run
from diffadapt.core.units import hours_text
from diffadapt.report import generator
from diffadapt.report.mask import masked
from diffadapt.report.provenance import optional_json
from diffadapt.report.summary import Summary
from diffadapt.run.device_hours import FILE
from diffadapt.systems.adapt_anything.findings import Ladder

MAKING = ("prompts", "synth", "filter")
"""Kinds of the stages that make images."""
TRAINING = ("uda", "ssl")


def cost(run: Run, manifest: Mapping[str, Any], table: Summary, steps: Ladder) -> dict[str, Any] | None:
    """``rows`` of (row, score, device hours, of it images, of it training), the steps in order, and
    ``notes``; None for a run of before hours were kept."""
    took = {entry["row"]: entry for entry in masked(optional_json(run, FILE)).get("rows") or ()}
    score = {r.method: r for r in table.rows if r.mean is not None}
    order = [steps.zero_shot, *steps.clip_taught, steps.base, *steps.stage1, *steps.stage2]
    rows = []
    for name in (n for n in order if n in took):
        entry, row = took[name], score.get(name)
        least = "at least " if entry["unknown"] else ""
        rows.append((
            row.title if row else name,
            "-" if row is None else f"{row.mean:.1f}",
            least + hours_text(entry["hours"]),
            *(hours_text(sum(entry["kinds"].get(k, 0.0) for k in kinds)) for kinds in (MAKING, TRAINING)),
        ))  # fmt: skip
    return (
        {"rows": rows, "notes": _notes(manifest, steps, list(took.values()), bool(score))} if rows else None
    )


def _notes(
    manifest: Mapping[str, Any], steps: Ladder, took: Sequence[Mapping[str, Any]], scored: bool
) -> list[str]:
    devices = sorted({d for entry in took for d in entry["device"].split(", ") if d})
    out = [
        "Device hours of all that a row stands on, from nothing to its predictions, as measured when it was"
        f" made ({', '.join(devices) or 'device not known'}); means over seeds and transfers, shared work"
        " counted in each row. Weights that were trained elsewhere (backbone, generator, CLIP) are not in"
        " them."
    ]
    if unknown := max((entry["unknown"] for entry in took), default=0):
        out.append(f"The time of up to {unknown} shards and fits of a row was not recorded.")
    if not scored:
        out.append(
            "Without labels no row has a score: `diffadapt audit` says from 50 to 100 labels which is above."
        )
    if not steps.clip_taught and generator.is_synthetic(manifest):
        out.append(
            "No row has CLIP as the only teacher, so this run does not say whether images should be generated"
            " at all: it needs a CLIP (clip.weights), a stage 2, and clip among the controls."
        )
    return out

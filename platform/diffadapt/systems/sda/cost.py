"""What a run's trainings and images took, from the ledger beside its store, and the paper's Table 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.ledger import Measured, by_digest
from diffadapt.core.pipeline import RESULT
from diffadapt.core.runs import Run
from diffadapt.core.units import format_seconds
from diffadapt.report.mask import masked
from diffadapt.report.provenance import optional_json
from diffadapt.report.scatter import Spot, scatter
from diffadapt.report.summary import Summary
from diffadapt.run.network_calls import FILE as NETWORK_CALLS
from diffadapt.systems.sda import published as paper

STEPS = {
    "classifier": "training of the source classifier",
    "generator": "training of the generator",
    "unconditional": "training of the unconditional model",
    "synth": "synthesis",
    "student_source_images_aligned": "projection of corrupted source images by the student's teacher",
    "student_synth_aligned": "projection of corrupted synthetic images by the student's teacher",
    "student": "training of the student",
    "aligned": "alignment",
    "finetuned": "fine-tuning on aligned images (SDA-FT)",
    "nonaligned": "fine-tuning on images that are not aligned",
    "real": "fine-tuning on real images",
    "projected": "projection of the target",
}
"""Node -> what it does, in the order of the method."""


def cost(run: Run, manifest: Mapping[str, Any], model: str | None) -> dict[str, Any] | None:
    """``steps`` (what was measured of this run), ``sentence`` (fine-tuning beside pretraining), ``published``
    (rows of Table 3); None where no fine-tuning was measured."""
    steps = measured(run, manifest)
    if not any(s["node"] == "finetuned" for s in steps):
        return None
    known = paper.cost()
    rows = [
        (m, f"{p:.1f}", f"{f:.2f}", f"{100 * f / p:.1f} %", m == model)
        for m, p, f in ((m, p, known["finetuning"][m]) for m, p in known["pretraining"].items())
    ]
    return {"steps": steps, "sentence": _sentence(steps), "published": rows, "known": known}


def measured(run: Run, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a step and device: ``seconds`` of the device, ``images`` that were made or seen (passes counted),
    ``rate`` in images a second of one device, ``part``: how much of the step the ledger knows, if not all."""
    try:
        entries = by_digest(run.root.ledger)
    except (DiffadaptError, OSError):
        return []  # a report is made without it
    out = []
    for node, what in _steps(manifest).items():
        shards = ((manifest.get("nodes") or {}).get(node) or {}).get("shards") or ()
        found = [entries[s[1]] for s in shards if s[1] in entries]
        for device in dict.fromkeys((m.device, m.devices) for m in found):
            mine = [m for m in found if (m.device, m.devices) == device]
            out.append(_step(node, what, mine, len(shards)))
    return out


def _steps(manifest: Mapping[str, Any]) -> dict[str, str]:
    """:data:`STEPS`, and those of the rows of few network calls after the step that they repeat."""
    out: dict[str, str] = {}
    for node, what in STEPS.items():
        out[node] = what
        for other in manifest.get("nodes") or ():
            head, _, key = other.partition("_")
            if head == node and key and f"projected_{key}" in manifest["nodes"]:
                out[other] = f"{what.removesuffix(' (SDA-FT)')}, {key.replace('_', ' ')}"
            if other.startswith("level_") and node == "projected":
                out[other] = f"choice of the level of noise, {other.removeprefix('level_').replace('_', ' ')}"
    return out


def projections(run: Run, manifest: Mapping[str, Any], table: Summary) -> dict[str, Any] | None:
    """Accuracy and cost of the rows that project (network_calls.json): ``rows`` (with ``accuracy``, ``calls``
    in words, ``passes``, ``tflop`` an image, ``seconds`` an image as measured, ``share`` of the published
    loop's passes), ``levels`` (a sentence for each choice), ``spots`` for the chart. None where the run has
    no row of few network calls."""
    found = optional_json(run, NETWORK_CALLS)
    if not found:
        return None
    seconds = {s["node"]: s["seconds"] / s["number"] for s in measured(run, manifest) if s["number"]}
    published = next((r["passes"] for r in found["rows"] if r["node"] == "projected"), None)
    rows, spots = [], []
    for r in found["rows"]:
        row = table.named(r["row"])
        if row is None or row.mean is None or row.control:
            continue
        passes = r["passes"]
        rows.append(
            {
                "row": row.title,
                "accuracy": f"{row.mean:.1f}",
                "calls": "" if passes is None else _words(r),
                "passes": "" if passes is None else f"{passes:,}",
                "share": f"{100 * passes / published:.3g} %" if passes and published else "",
                "tflop": f"{r['gflop'] / 1000:.3g}" if r.get("gflop") else "",
                "seconds": f"{seconds[r['node']]:.3g}" if r["node"] in seconds else "",
                "level": "" if r["level"] is None else r["level"]["level"],
            }
        )
        if passes:
            spots.append(Spot(row.title, float(passes), row.mean, row.spread, row.role.kind == RESULT))
    levels = [_level(r["row"], r["level"]) for r in found["rows"] if r["level"] and not r["control"]]
    source = table.reference.mean if table.reference else None
    charts = [scatter(spots, source, table.metric_name, narrow=n) for n in (False, True)]
    return {"rows": rows, "levels": list(dict.fromkeys(levels)), "charts": charts}


def _words(r: Mapping[str, Any]) -> str:
    backward = f", {r['backward']} backward" if r["backward"] else ""
    return f"{r['forward']} forward{backward}"


def _level(row: str, level: Mapping[str, Any]) -> str:
    """What was chosen, and what labels would have chosen."""
    said = (
        f"{row}: level {level['level']} of {', '.join(level['scores'])} scores highest by {level['rule']} on"
        f" {level['images']} target images, whose labels were not looked at and which are scored too"
    )
    if "oracle" not in level:
        return f"{said}."
    accuracy, best = level["accuracy"], level["oracle"]
    top = f"{accuracy[str(best)]:.1f} % of the sample for the source classifier"
    if best == level["level"]:
        return f"{said}. By their labels it is the best one: {top}."
    return f"{said}. By their labels {best} is best: {top} against {accuracy[str(level['level'])]:.1f}."


def _step(node: str, what: str, mine: list[Measured], shards: int) -> dict[str, Any]:
    seconds = sum(m.device_seconds for m in mine)
    images = sum(m.samples or m.items for m in mine)
    part = "" if len(mine) == shards else f"{len(mine)} of {shards} shards"
    if any(m.resumed for m in mine):
        part = "the last part, after an interruption"
    count = f"{mine[0].devices} x " if mine[0].devices > 1 else ""
    return {
        "node": node,
        "what": what,
        "device": masked(f"{count}{mine[0].device or 'not recorded'}"),
        "took": format_seconds(seconds) if seconds >= 10 else f"{seconds:.1f} s",
        "seconds": seconds,
        "images": f"{images:,}",
        "number": images,
        "rate": f"{images / seconds:.3g}" if seconds else "",
        "part": part,
    }


def _sentence(steps: list[dict[str, Any]]) -> str:
    """How long fine-tuning took beside the source's training, where one device did the whole of both."""
    by_node: dict[str, list[dict[str, Any]]] = {}
    for step in steps:
        by_node.setdefault(step["node"], []).append(step)
    (tuned, *more), source = by_node["finetuned"], by_node.get("classifier", [])
    whole = not more and len(source) == 1 and not tuned["part"] and not source[0]["part"]
    if not whole or source[0]["device"] != tuned["device"]:
        return ""
    share = 100 * tuned["seconds"] / source[0]["seconds"]
    return (
        f"Fine-tuning took {tuned['took']} for {tuned['images']} images, {share:.1f} % of the"
        f" {source[0]['took']} that the source classifier's own training took for {source[0]['images']}"
        f" ({tuned['device']})."
    )

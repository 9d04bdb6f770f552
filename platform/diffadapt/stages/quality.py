"""Quality stage: which transferred images training sees, every decision on record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.diffusion.translation.config import QualityConfig
from diffadapt.diffusion.translation.verdict import REASONS, said, thresholds
from diffadapt.stages.roles import KEPT, row_inputs

DECISIONS = "decisions.json"
MEASURES = (
    "consistency",
    "edges",
    "structure",
    "luminance",
    "source_luminance",
    "deviation",
    "contrast",
    "change",
    "clip",
)
"""The numbers of an image's scores that are collected (its IoUs by class stay with the transferred rows)."""
HARDLY = 2.0
"""Mean absolute change of the pixels (0..255) below which a transfer has left the images as they were."""


@dataclass(frozen=True)
class Quality(Stage):
    """Input: transferred scenes, already judged. Writes kept.parquet (key, kept, reason, attempts, strength
    and :data:`MEASURES`, null where not measured) and decisions.json (``images``: the same of each image,
    ``tried``, and one ``sentence`` on a refused one; ``failed``: key and reason; ``counts``).

    Metrics: ``images``, ``kept``, ``refused``, ``failed``, ``attempts`` (over all images), ``retried``
    (images that took more than one), ``reasons`` (reason -> refused images, each counted under its first),
    ``means`` (measure -> mean over the kept), ``warnings``, ``quarantined``. Raises DataError when nothing is
    kept.
    """

    config: QualityConfig = QualityConfig()

    kind = "quality"
    fit_stage = True
    trains = False

    def identity(self) -> dict[str, Any]:
        return {"thresholds": to_dict({k: list(v) for k, v in _finite(self.config).items()})}

    def resources(self) -> str:
        return "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def fit(self, job: FitJob) -> dict[str, Any]:
        images, failed = _collected(self.config, job)
        counts = _counts(images, failed)
        (Path(job.output) / DECISIONS).write_text(
            json.dumps({"counts": counts, "images": images, "failed": failed}, indent=1), encoding="utf-8"
        )
        _write(images, job.output)
        if not counts["kept"]:
            raise DataError(_nothing_left(images, failed))
        return {
            **counts,
            "means": _means(images),
            "warnings": _warnings(images, counts),
            "quarantined": failed,
        }


def _finite(config: QualityConfig) -> dict[str, tuple[float, ...]]:
    return {name: limits if limits[1] < 1e9 else limits[:1] for name, limits in thresholds(config).items()}


def _collected(config: QualityConfig, job: FitJob) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The decisions in the order of the keys, and (key, reason) of what could not be transferred."""
    images: list[dict[str, Any]] = []
    failed: list[list[str]] = []
    for file in row_inputs(job)[0]:
        rows = job.read(file)
        failed += [[f.key, f.reason] for f in rows.failures]
        for key, accepted, attempts, strength, text in zip(
            *(rows.column(c) for c in ("key", "accepted", "attempts", "strength", "scores")), strict=True
        ):
            scores = json.loads(text)
            reasons = scores.get("reasons") or []
            one = {
                "key": key,
                "kept": accepted,
                "reason": "" if accepted else next(iter(reasons), ""),
                "reasons": reasons,
                "attempts": attempts,
                "strength": strength,
                "scores": {m: scores[m] for m in MEASURES if scores.get(m) is not None},
            }
            if not accepted:
                one["sentence"] = "refused: " + ", ".join(
                    _sentence(scores, config, reason) for reason in reasons
                )
            if "tried" in scores:
                one["tried"] = scores["tried"]
            images.append(one)
    return sorted(images, key=lambda i: i["key"]), sorted(failed)


def _sentence(scores: Mapping[str, Any], config: QualityConfig, reason: str) -> str:
    return (
        said(scores, config, reason)
        if scores.get(reason) is not None and reason in thresholds(config)
        else f"{reason} is not a number"
    )


def _counts(images: Sequence[Mapping[str, Any]], failed: Sequence[Any]) -> dict[str, Any]:
    kept = sum(i["kept"] for i in images)
    reasons = Counter(i["reason"] for i in images if not i["kept"])
    return {
        "images": len(images) + len(failed),
        "kept": kept,
        "refused": len(images) - kept,
        "failed": len(failed),
        "attempts": sum(i["attempts"] for i in images),
        "retried": sum(i["attempts"] > 1 for i in images),
        "reasons": {r: reasons[r] for r in REASONS if reasons[r]},
    }


def _means(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    result: dict[str, list[float]] = {}
    for image in images:
        for name, value in image["scores"].items() if image["kept"] else ():
            result.setdefault(name, []).append(value)
    return {name: round(sum(result[name]) / len(result[name]), 4) for name in MEASURES if name in result}


def _warnings(images: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> list[str]:
    out = []
    if counts["kept"] * 2 < len(images):
        out.append(
            f"Quality control refused {counts['refused']} of {len(images)} transferred images"
            f" ({_reasons(counts)}): look at the contact sheet before you trust the result."
        )
    change = _means(images).get("change")
    if change is not None and change < HARDLY:
        out.append(
            f"The transferred images hardly differ from their sources (mean change {change:.1f} of 255):"
            " training on them adds little, and the estimate of performance on the target says nothing;"
            " raise transfer.strength, or look at the prompt."
        )
    return out


def _reasons(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} by {reason}" for reason, n in counts["reasons"].items()) or "none was made"


def _nothing_left(images: Sequence[Mapping[str, Any]], failed: Sequence[Sequence[str]]) -> str:
    if not images:
        why = f"none could be made (the first: {failed[0][1].rstrip('.')})" if failed else "there are none"
        return f"No transferred image is left for training: {why}."
    worst = next((i["sentence"] for i in images if not i["kept"]), "")
    return (
        f"No transferred image is left for training: quality control refused all {len(images)}"
        f" ({_reasons(_counts(images, failed))}; the first was {worst}): lower the thresholds of quality,"
        " allow retries, or look at transfer.prompt and transfer.strength."
    )


def _write(images: Sequence[Mapping[str, Any]], folder: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "key": pa.array([i["key"] for i in images], pa.string()),
        "kept": pa.array([i["kept"] for i in images], pa.bool_()),
        "reason": pa.array([i["reason"] for i in images], pa.string()),
        "attempts": pa.array([i["attempts"] for i in images], pa.int64()),
        "strength": pa.array([i["strength"] for i in images], pa.float64()),
    }
    columns |= {name: pa.array([i["scores"].get(name) for i in images], pa.float64()) for name in MEASURES}
    pq.write_table(pa.table(columns), Path(folder) / KEPT)

"""The split of the target into confident and unconfident images, from stage 1's predictions (Adapt Anything
section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError
from diffadapt.core.record import softmax
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.stages.roles import row_inputs

SPLIT = "split.parquet"
SPLIT_SCHEMA = pa.schema(
    [("key", pa.string()), ("label", pa.int64()), ("confidence", pa.float64()), ("confident", pa.bool_())]
)
"""``label`` is the predicted class, never the true one; ``confidence`` its softmax probability."""
STAGE1 = "stage 1"
NAMED = 8
"""Classes that a warning names."""


@dataclass(frozen=True)
class Split(Stage):
    """Input: one prediction node (logits). The folder holds split.parquet in :data:`SPLIT_SCHEMA`, sorted by
    key.

    True labels among the predictions' rows are not looked at. The metrics say how far the predictions can be
    trusted, and warn in ``warnings`` where stage 1 looks collapsed.
    """

    config: SplitConfig = SplitConfig()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    teacher: str = STAGE1
    """Whose predictions they are, for the warnings."""

    kind = "split"
    fit_stage = True

    def label(self) -> str:
        return self.config.rule

    def identity(self) -> dict[str, Any]:
        c = self.config
        rule = {"fraction": c.fraction} if c.rule == "top" else {}
        return {
            "rule": c.rule,
            **rule,
            "threshold": c.threshold,
            "warn": [c.warn_confident, c.warn_coverage],
            "classes": list(self.class_names) or self.num_classes,
            **({"teacher": self.teacher} if self.teacher != STAGE1 else {}),
        }

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        (files,) = row_inputs(job)
        rows = [job.read(f) for f in files]
        keys = [key for part in rows for key in part.column("key")]
        if not keys:
            raise DataError(
                "There is no prediction on the target to take pseudo-labels from: none of its images could be"
                " read."
            )
        logits = np.asarray([values for part in rows for values in part.column("logits")], np.float64)
        if logits.shape[1] != self.num_classes:
            raise DataError(
                f"The predictions have {logits.shape[1]} classes, but the recipe has {self.num_classes}."
            )
        p = softmax(logits)
        predicted, confidence = p.argmax(1), p.max(1)
        confident = choose(predicted, confidence, keys, self.config)
        if job.reporter.rank == 0:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            columns = {
                "key": [keys[i] for i in order],
                "label": predicted[order],
                "confidence": confidence[order],
                "confident": confident[order],
            }
            pq.write_table(pa.table(columns, schema=SPLIT_SCHEMA), Path(job.output) / SPLIT)
        return split_metrics(
            predicted,
            confidence,
            confident,
            self.config,
            self.class_names or [str(i) for i in range(self.num_classes)],
            self.teacher,
        )


def choose(
    predicted: np.ndarray, confidence: np.ndarray, keys: Sequence[str], config: SplitConfig
) -> np.ndarray:
    """bool (N,): which images are confident.

    ``top``: of each predicted class the ``fraction`` (rounded up, so at least one) with the largest
    confidence, ties by key; ``threshold``: those with confidence >= ``threshold``.
    """
    if config.rule == "threshold":
        return confidence >= config.threshold
    confident = np.zeros(len(predicted), bool)
    for c in np.unique(predicted):
        mine = sorted(np.flatnonzero(predicted == c), key=lambda i: (-confidence[i], keys[i]))
        confident[mine[: int(np.ceil(round(config.fraction * len(mine), 9)))]] = True
    return confident


def split_metrics(
    predicted: np.ndarray,
    confidence: np.ndarray,
    confident: np.ndarray,
    config: SplitConfig,
    names: Sequence[str],
    teacher: str = STAGE1,
) -> dict[str, Any]:
    """What the split says about ``teacher``: counts, fractions of the target, coverage (the fraction of
    classes that is predicted), ``per_class`` name -> [predicted, confident], and warnings."""
    counts = np.bincount(predicted, minlength=len(names))
    chosen = np.bincount(predicted[confident], minlength=len(names))
    above = float((confidence >= config.threshold).mean())
    coverage = float((counts > 0).mean())
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    return {
        "images": len(predicted),
        "confident": int(confident.sum()),
        "confident_fraction": float(confident.mean()),
        "above_threshold": above,
        "mean_confidence": float(confidence.mean()),
        "coverage": coverage,
        "per_class": {name: [int(n), int(k)] for name, n, k in zip(names, counts, chosen, strict=True)},
        "never_predicted": absent,
        "warnings": _warnings(above, absent, len(names), config, teacher),
    }


def _warnings(
    above: float, absent: Sequence[str], classes: int, config: SplitConfig, teacher: str
) -> list[str]:
    said, coverage = [], (classes - len(absent)) / classes
    if above < config.warn_confident:
        cause = (
            "which is a sign of a collapsed stage 1: look at the synthetic images and at stage 1's"
            " predictions before trusting stage 2."
            if teacher == STAGE1
            else f"so {teacher} hardly knows these images: do not trust stage 2 after it."
        )
        said.append(
            f"Only {_percent(above)} of the target is predicted with confidence {config.threshold:g} or more,"
            f" {cause}"
        )
    if absent:
        shown = ", ".join(repr(name) for name in absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        if coverage < config.warn_coverage:
            said.append(
                f"{teacher[0].upper()}{teacher[1:]} predicts only {classes - len(absent)} of the {classes}"
                f" classes ({_percent(coverage)}), which is a sign of collapse; stage 2 cannot learn the"
                f" others: {shown}."
            )
        else:
            said.append(
                f"No target image is predicted as {shown}: stage 2 has no pseudo-label for"
                f" {'this class' if len(absent) == 1 else 'these classes'}."
            )
    return said


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"


def read_split(folder: str | Path) -> dict[str, tuple[int, bool]]:
    """Key -> (pseudo-label, confident) of a split's folder."""
    table = pq.read_table(Path(folder) / SPLIT)
    columns = (table.column(name).to_pylist() for name in ("key", "label", "confident"))
    return {key: (label, confident) for key, label, confident in zip(*columns, strict=True)}

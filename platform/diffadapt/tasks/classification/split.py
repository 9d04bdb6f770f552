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
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.foreign import parse
from diffadapt.core.record import softmax
from diffadapt.core.stage import FitJob, InputFile, NodePlan, Stage, whole
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.metrics.class_shares import Estimate, estimate
from diffadapt.stages.roles import adapted, row_inputs

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
    """Input: one prediction node (logits); with estimated shares also the model's predictions on held-out
    source images, or the fitted model itself. The folder holds split.parquet in :data:`SPLIT_SCHEMA`, sorted
    by key.

    True labels among the predictions' rows are not looked at. The metrics say how far the predictions can be
    trusted, and warn in ``warnings`` where stage 1 looks collapsed.
    """

    config: SplitConfig = SplitConfig()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    teacher: str = STAGE1
    """Whose predictions they are, for the warnings."""
    unadapted: bool = False
    """Estimated shares were asked for, and ``config`` is without them because the model gives none."""

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
            **({"shares": c.shares} if c.shares != "predicted" else {}),
            "threshold": c.threshold,
            "warn": [c.warn_confident, c.warn_coverage],
            "classes": list(self.class_names) or self.num_classes,
            **({"teacher": self.teacher} if self.teacher != STAGE1 else {}),
        }

    def notes(self) -> tuple[str, ...]:
        said = (
            "Pseudo-labels of a model that was not adapted are a fraction of every predicted class: without"
            " held-out source images (--held-out 0.1) its shares of classes cannot be estimated"
            " (split.shares)."
        )
        return (said,) if self.unadapted else ()

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        if self.config.shares == "estimated" and self.config.rule != "top":
            raise RecipeError(
                "split.shares is 'estimated', which says how many images of a class are taken, but"
                " split.rule is"
                f" {self.config.rule!r}: set split.rule to top."
            )
        return whole(inputs)

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        files, *further = row_inputs(job)
        keys, _, logits = _read(job, files)
        if not keys:
            raise DataError(
                "There is no prediction on the target to take pseudo-labels from: none of its images could be"
                " read."
            )
        if logits.shape[1] != self.num_classes:
            raise DataError(
                f"The predictions have {logits.shape[1]} classes, but the recipe has {self.num_classes}."
            )
        names = self.class_names or [str(i) for i in range(self.num_classes)]
        p, shares, said = softmax(logits), None, {}
        if self.config.shares == "estimated":
            found = _estimate(job, logits, further, names)
            shares = found.shares
            percent = np.round(100 * shares, 2).tolist()
            said = {"shares": dict(zip(names, percent, strict=True)), "shares_how": found.how}
        predicted, confidence = p.argmax(1), p.max(1)
        confident = choose(predicted, confidence, keys, self.config, shares)
        warnings = []
        if shares is not None:
            said["shares_lacking"] = _lacking(confident, self.config)
            if not confident.any():
                confident = choose(predicted, confidence, keys, self.config)
                warnings.append(
                    "The classes that stage 1 predicts are estimated to have no image in the target, so the"
                    " fraction of every predicted class was taken instead (split.shares)."
                )
        if job.reporter.rank == 0:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            columns = {
                "key": [keys[i] for i in order],
                "label": predicted[order],
                "confidence": confidence[order],
                "confident": confident[order],
            }
            pq.write_table(pa.table(columns, schema=SPLIT_SCHEMA), Path(job.output) / SPLIT)
        metrics = split_metrics(predicted, confidence, confident, self.config, names, self.teacher)
        return {**metrics, **said, "warnings": [*metrics["warnings"], *warnings]}


def _lacking(confident: np.ndarray, config: SplitConfig) -> int:
    """How many images fewer than the fraction of all are taken, because too few are predicted as the classes
    that are estimated to have them."""
    return max(0, int(np.floor(config.fraction * len(confident) + 0.5)) - int(confident.sum()))


def _estimate(
    job: FitJob, logits: np.ndarray, further: list[list[InputFile]], names: Sequence[str]
) -> Estimate:
    """The shares of the classes, by held-out source images or else by those that stage 1 was trained
    on."""
    if further:
        _, labels, held_out = _read(job, further[0])
        if not labels:
            raise DataError(
                "split.shares is 'estimated', but no source image is held out, because every class has"
                " one only: give more images a class, or set held_out to 0."
            )
        return estimate(logits, np.zeros(0), (held_out, np.asarray(labels, np.int64)))
    counts = parse((Path(adapted(job.context)) / "metrics.json").read_bytes())["source_per_class"]
    return estimate(logits, np.asarray([counts[name] for name in names], np.float64))


def _read(job: FitJob, files: Sequence[InputFile]) -> tuple[list[str], list[int | None], np.ndarray]:
    """Keys, labels and logits (N, K) of prediction shards."""
    rows = [job.read(f) for f in files]
    keys, labels, logits = (
        [value for part in rows for value in part.column(name)] for name in ("key", "label", "logits")
    )
    return keys, labels, np.asarray(logits, np.float64)


def choose(
    predicted: np.ndarray,
    confidence: np.ndarray,
    keys: Sequence[str],
    config: SplitConfig,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """bool (N,): which images are confident.

    ``top``: of each predicted class the ``fraction`` (rounded up, so at least one) with the largest
    confidence, ties by key; with estimated ``shares`` (K,) the ``fraction`` of all images times the class's
    share (rounded, so there may be none), as far as so many are predicted; ``threshold``: those with
    confidence >= ``threshold``.
    """
    if config.rule == "threshold":
        return confidence >= config.threshold
    confident = np.zeros(len(predicted), bool)
    for c in np.unique(predicted):
        mine = sorted(np.flatnonzero(predicted == c), key=lambda i: (-confidence[i], keys[i]))
        if shares is None:
            count = int(np.ceil(round(config.fraction * len(mine), 9)))
        else:
            count = int(np.floor(config.fraction * len(predicted) * shares[c] + 0.5))
        confident[mine[:count]] = True
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

"""What a trial is judged by: a label-free validator of its result, or accuracy on target labels where that
was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import MethodRow
from diffadapt.core.record import Score, ensemble_logits
from diffadapt.metrics.segmentation import MIOU
from diffadapt.sweeps.space import ESTIMATED, ORACLE

Predictions = Mapping[str, Mapping[str, tuple[int | None, np.ndarray]]]


def reads_predictions(name: str) -> bool:
    """Whether the objective ``name`` looks at predictions of the target rather than at scores."""
    return name not in (ORACLE, ESTIMATED)


def objective(
    name: str, rows: Sequence[MethodRow], predictions: Predictions, scores: Sequence[Score]
) -> float:
    """The mean over ``rows`` (seeds, transfers) of the validator ``name`` on the row's predictions; for
    'oracle' :func:`accuracy`, for 'estimated' their mean IoU on transferred test images of the source, whose
    labels are known (no target image is looked at).

    Validators see logits: a single member's own, of several those of their mean probabilities
    (:func:`ensemble_logits`), whose prediction is the row's. ``predictions``: node -> key -> (label, logits).
    DataError where there is nothing to judge.
    """
    if name == ORACLE:
        value = accuracy(rows, scores)
        if value is None:
            raise DataError(
                "The objective 'oracle' needs target labels, and the target has none: choose a label-free one"
                " such as im."
            )
        return value
    if name == ESTIMATED:
        return _estimated(rows, scores)
    from diffadapt.metrics.validators import of_logits

    values = []
    for row in rows:
        members = [predictions[m] for m in row.members]
        keys = [k for k in members[0] if all(k in m for m in members)]
        if keys:
            joint = ensemble_logits([np.stack([m[k][1] for k in keys]) for m in members])
            values.append(float(of_logits(name, joint)))
    if not values:
        raise DataError("The trial predicted no image of the target: there is nothing to judge it by.")
    return float(np.mean(values))


def _estimated(rows: Sequence[MethodRow], scores: Sequence[Score]) -> float:
    names = {r.name for r in rows}
    values = [s.value for s in scores if s.method in names and s.metric == MIOU.on("estimated").name]
    if not values:
        raise DataError(
            "The objective 'estimated' needs transferred test images of the source: give --source-test and"
            " --estimate above 0."
        )
    return float(np.mean(values))


def accuracy(rows: Sequence[MethodRow], scores: Sequence[Score]) -> float | None:
    """The mean of the rows' own metric (accuracy, mean IoU) in percent over seeds and groups; None without
    labels."""
    own = {(r.name, r.metric) for r in rows}
    values = [s.value for s in scores if (s.method, s.metric) in own and not s.control]
    return float(np.mean(values)) if values else None

"""The result of an audit as one JSON value, which the command prints and the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffadapt.audit.answers import Answer, Answers
from diffadapt.audit.verdict import (
    ENOUGH,
    LEVEL,
    Labels,
    Pair,
    accuracy,
    as_percent,
    chosen_by,
    class_shares,
    compare,
    pairs,
    truth_of,
    worst_case,
)
from diffadapt.core.errors import DataError
from diffadapt.metrics.prediction_powered import interval

CLASSES = 12
"""Classes up to which the shares of the classes are given."""
NEAR = 0.01
"""A choice within this share of the best row's accuracy counts as good where the interval shows it."""


def result(
    answers: Answers,
    given: Mapping[int, int | None],
    places: np.ndarray,
    stratum: np.ndarray,
    validators: Mapping[str, Mapping[str, float]],
    finite: bool = True,
) -> dict[str, Any]:
    """``given``: position among the chosen images -> class, None where it cannot be told; ``places`` (n,) and
    ``stratum`` (N,) of :func:`diffadapt.audit.design.places`; ``validators``: row -> validator -> score.
    Raises DataError for fewer than ENOUGH labels."""
    told = [i for i in sorted(given) if given[i] is not None]
    if len(told) < ENOUGH:
        raise DataError(
            f"{len(told)} image{'s' * (len(told) != 1)} of the audit {'have' if len(told) != 1 else 'has'}"
            f" a class:"
            f" label at least {ENOUGH} of the {len(places)}; the order is random, so the first ones are as"
            f" good as any."
        )
    classes = np.array([given[i] for i in told], np.int64)
    labels = Labels.of(places[told], classes, stratum)
    unclear = places[[i for i in sorted(given) if given[i] is None]]
    rows = [_row(a, answers, labels, unclear, finite) for a in answers.answers]
    every = pairs(
        [a for a, r in zip(answers.answers, rows, strict=True) if r["value"] is not None], labels, finite
    )
    known = {r["row"]: r for r in rows}
    return {
        "level": round(100 * LEVEL),
        "finite": finite,
        "images": len(answers.keys),
        "strata": int(stratum.max()) + 1,
        "chosen": len(places),
        "labels": len(told),
        "unclear": len(unclear),
        "missing": len(places) - len(told) - len(unclear),
        "rows": rows,
        "pairs": [_pair(p) for p in every],
        "classes": _classes(answers, labels, finite),
        "validators": _validators(answers.answers, labels, validators, known, finite),
        "labelled": bool((answers.truth >= 0).all()),
        "wrong_labels": _disagreeing(answers, labels),
        "left_out": list(answers.left_out),
        "groups": sorted({a.row.group for a in answers.answers if a.row.group}),
    }


def _row(
    answer: Answer, answers: Answers, labels: Labels, unclear: np.ndarray, finite: bool
) -> dict[str, Any]:
    out: dict[str, Any] = {
        "row": answer.title,
        "control": answer.row.control,
        "images": len(answer.places),
        "labels": int(np.isin(labels.places, answer.places).sum()),
        "true": as_percent(truth_of(answer, answers)),
        "metric": answer.row.metric,
        "value": None,
    }
    found = accuracy(answer, labels, finite=finite)
    if found is None:
        return out
    top = float(answer.scale.max())
    low, high = interval(found, LEVEL, 0.0, top)
    alone = accuracy(answer, labels, lam=0.0, finite=finite)
    assert alone is not None
    alone_low, alone_high = interval(alone, LEVEL, 0.0, top)
    fall, rise = worst_case(answer, labels, unclear, float(found.value))
    return {
        **out,
        "value": as_percent(np.clip(found.value, 0.0, 1.0)),
        "low": as_percent(low),
        "high": as_percent(min(float(high), 1.0)),
        "power": round(float(found.lam), 3),
        "alone": as_percent(np.clip(alone.value, 0.0, 1.0)),
        "alone_low": as_percent(alone_low),
        "alone_high": as_percent(min(float(alone_high), 1.0)),
        "fall": as_percent(fall),
        "rise": as_percent(rise),
    }


def _classes(answers: Answers, labels: Labels, finite: bool) -> list[dict[str, Any]]:
    """The class balance of the target; empty for more classes than CLASSES, of which so few labels say
    little."""
    if len(answers.class_names) > CLASSES:
        return []
    known = answers.truth if (answers.truth >= 0).all() else None
    out = []
    for c, found in enumerate(class_shares(answers, labels, finite)):
        low, high = interval(found, LEVEL)
        true = None if known is None else float((known == c).mean())
        values = {"value": max(float(found.value), 0.0), "low": low, "high": high, "true": true}
        out.append({"class": answers.class_names[c], **{k: as_percent(v) for k, v in values.items()}})
    return out


def _pair(p: Pair) -> dict[str, Any]:
    return {
        "first": p.first,
        "second": p.second,
        "value": as_percent(p.value),
        "low": as_percent(p.low),
        "high": as_percent(p.high),
        "adjusted": round(p.adjusted, 4),
        "apart": p.apart,
        "images": p.images,
        "differ": p.differ,
        "labels": p.labels,
    }


def _validators(
    answers: Sequence[Answer],
    labels: Labels,
    validators: Mapping[str, Mapping[str, float]],
    rows: Mapping[str, Mapping[str, Any]],
    finite: bool,
) -> list[dict[str, Any]]:
    """What each validator would choose beside the best row by the estimates, of those that it scored."""
    by_title = {a.title: a for a in answers}
    titles = [t for t in by_title if t in validators and rows[t]["value"] is not None]
    out = []
    for name, chosen in chosen_by(validators, titles).items():
        scored = [t for t in titles if name in validators[t]]
        best = max(scored, key=lambda t: rows[t]["value"])
        pair = compare(by_title[best], by_title[chosen], labels, finite)
        out.append(
            {
                "validator": name,
                "row": chosen,
                "of": len(scored),
                "best": best,
                "value": as_percent(pair.value),
                "low": as_percent(pair.low),
                "high": as_percent(pair.high),
                "verdict": _verdict(chosen == best, pair),
            }
        )
    return out


def _verdict(same: bool, pair: Pair) -> str:
    """``well``, ``worse`` or ``open``."""
    if same or not pair.differ:
        return "well"
    if pair.low is None or pair.high is None:
        return "open"
    return "worse" if pair.low > 0 else "well" if pair.high <= NEAR else "open"


def _disagreeing(answers: Answers, labels: Labels) -> int:
    """How many of the given labels are not those that the data have."""
    known = answers.truth[labels.places]
    return int(((known >= 0) & (known != labels.classes)).sum())

"""Average precision of boxes as COCO defines it (IoU .50:.05:.95, 101 recall points, 100 detections an
image), counted by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from diffadapt.core.metric import Metric

MAP = Metric("map", "mean average precision", "boxes", short="mAP")
MAP50 = Metric("map50", "mean average precision at IoU .50", "boxes", short="AP at IoU .50")
AP = Metric("ap", "average precision", "boxes", by_class=True)
"""All three come from one count, :func:`mean_ap`."""
MOST = 100
"""Detections of an image that count, the surest first."""


def scores(tables: Sequence[Any], class_names: Sequence[str]) -> dict[str, float]:
    """In percent: ``map``, ``map50`` and ``ap.<class>`` of every class that occurs, over all rows of
    BOXES_SCHEMA tables.

    Images whose true objects are not known count nowhere. Empty where no object is true: nothing can be
    measured.
    """
    result = mean_ap(
        [row for table in tables for row in table.select(["objects", "boxes"]).to_pylist()], class_names
    )
    return {name: 100 * value for name, value in result.items() if math.isfinite(value)}


def mean_ap(rows: Iterable[Mapping[str, Any]], class_names: Sequence[str] | None = None) -> dict[str, float]:
    """``map`` (mean over IoU .50:.05:.95 and classes), ``map50`` (IoU .50) and ``ap.<class>`` in 0..1; NaN
    where no object is true.

    A row has ``objects`` ({category, bbox, crowd}; None: not known, the row is skipped) and ``boxes``
    ({category, bbox, score}), boxes as (x1, y1, x2, y2). A class without a true object (crowds aside) in any
    row is left out of the means, whatever was detected. A detection matched to nothing but a crowd counts
    neither way. Without names, classes are called by their numbers.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known = [row for row in rows if row["objects"] is not None]
    truth, detections = _annotations(known)
    occurring: list[int] = sorted({a["category_id"] for a in truth if not a["iscrowd"]})
    if not occurring:
        return {MAP.name: math.nan, MAP50.name: math.nan}
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every step
        data = COCO()
        form = {
            "info": {},
            "images": [{"id": i} for i in range(len(known))],
            "annotations": truth,
            "categories": [{"id": c} for c in occurring],
        }
        data.dataset = cast(Any, form)  # of COCO's fields, only those that are counted
        data.createIndex()
        results = COCO()
        results.dataset = {
            **data.dataset,
            "annotations": [d for d in detections if d["category_id"] in occurring],
        }
        results.createIndex()
        counted = COCOeval(data, results, "bbox")
        counted.params.maxDets = [MOST]
        counted.params.areaRng, counted.params.areaRngLbl = [[0, math.inf]], ["all"]
        counted.evaluate()
        counted.accumulate()
    # (IoU thresholds, recall points, classes)
    precision = np.asarray(counted.eval["precision"])[:, :, :, 0, 0]
    by_class = {c: float(precision[:, :, i].mean()) for i, c in enumerate(occurring)}
    named = {
        AP.of_class(class_names[c] if class_names is not None else str(c)): value
        for c, value in by_class.items()
    }
    mean = float(np.mean(list(by_class.values())))
    return {MAP.name: mean, MAP50.name: float(precision[0].mean()), **named}


def _annotations(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The true objects and the detections in pycocotools' form."""
    truth: list[Any] = []
    detections: list[Any] = []
    for image, row in enumerate(rows):
        for o in row["objects"]:
            truth.append({**_box(o, image, len(truth) + 1), "iscrowd": int(o["crowd"]), "ignore": 0})
        for b in row["boxes"] or ():
            detections.append({**_box(b, image, len(detections) + 1), "score": float(b["score"])})
    return truth, detections


def _box(value: Mapping[str, Any], image: int, number: int) -> dict[str, Any]:
    """COCO's form; its numbers start at 1, because 0 means 'no match' to pycocotools."""
    x1, y1, x2, y2 = (float(v) for v in value["bbox"])
    return {
        "id": number,
        "image_id": image,
        "category_id": int(value["category"]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }

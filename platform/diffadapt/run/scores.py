"""A run's scores from what its prediction nodes stored: logits, label maps with their confusion counts, or
boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from diffadapt.core import record
from diffadapt.core.artifact import Rows
from diffadapt.core.pipeline import MethodRow, Pipeline
from diffadapt.core.record import Score
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store

SEGMENTS, BOXES = "segments", "boxes"
"""Kinds of the stages whose rows are label maps and boxes; all others that rows count store logits."""
CLASS_IOU = "iou."
"""What stands before a class's name in the metric of its own intersection over union."""
MAIN = "miou"
"""The metric of the target's images, whose rows also give the classes' own figures."""

Predictions = dict[str, dict[str, tuple[int | None, np.ndarray]]]


def scores_of(
    run: str, seed: int, pipeline: Pipeline, plans: Mapping[str, NodePlan], store: Store
) -> tuple[list[Score], Predictions]:
    """The scores of every row, and the logits by node and key of the nodes that hold logits (those of
    ``outputs["predictions"]`` too).

    The rows' own metrics come first, in the order of the rows; further figures (a class's own) after them
    all.
    """
    kinds = {m: plans[m].stage.kind for row in pipeline.rows for m in row.members}
    dense = [r for r in pipeline.rows if kinds[r.members[0]] in (SEGMENTS, BOXES)]
    plain = [r for r in pipeline.rows if r not in dense]
    wanted = {m for row in plain for m in (*row.members, row.images_of) if m} | {
        n for n in [pipeline.outputs.get("predictions")] if n
    }
    predictions = {m: record.predictions_by_key(_parts(plans[m], store)) for m in wanted}
    counts = totals(pipeline, plans)
    scores = record.score_rows(run, seed, plain, predictions, counts)
    further: list[Score] = []
    for row in dense:
        (member,) = row.members
        score = _segments if kinds[member] == SEGMENTS else _boxes
        first, more = score(run, seed, row, _parts(plans[member], store), counts, pipeline.class_names)
        scores += first
        further += more
    return scores + further, predictions


def totals(pipeline: Pipeline, plans: Mapping[str, NodePlan]) -> dict[str, int]:
    """Images of each group of the target, as the scores name it."""
    totals: dict[str, int] = defaultdict(int)
    target = pipeline.outputs.get("target")
    for p in plans[target].shards if target else ():
        totals[p.shard.params["group"]] += p.shard.items
    for row in pipeline.rows:
        if row.group:
            totals[row.group] = plans[row.members[0]].items
    return totals


def _parts(plan: NodePlan, store: Store) -> list[Rows]:
    return [store.load(p.path or "") for p in plan.shards]


def _segments(
    run: str,
    seed: int,
    row: MethodRow,
    parts: Sequence[Rows],
    counts: Mapping[str, int],
    names: Sequence[str],
) -> tuple[list[Score], list[Score]]:
    """The mean IoU of each group's one confusion matrix, none where no pixel is labelled; for the target also
    pixel accuracy and every class's IoU that occurs."""
    from diffadapt.metrics.segmentation import iou, mean_iou, pixel_accuracy

    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for rows in parts:
        for key, counted in zip(rows.column("key"), rows.column("confusion"), strict=True):
            if counted is not None:
                found[_group(row, key)].append(np.asarray(counted, np.int64))
    first, further = [], []
    for group, matrices in sorted(found.items()):
        side = round(len(matrices[0]) ** 0.5)
        matrix = np.sum(matrices, axis=0).reshape(side, side)
        if not matrix[:-1].any():  # no pixel with a class: nothing to score
            continue

        def score(metric: str, value: float, group: str = group, images: int = len(matrices)) -> Score:
            return _score(run, seed, row, group, metric, value * 100, images, counts)

        first.append(score(row.metric, mean_iou(matrix)))
        if row.metric == MAIN:
            further.append(score("pixel_accuracy", pixel_accuracy(matrix)))
            further += [
                score(CLASS_IOU + names[c], value)
                for c, value in enumerate(iou(matrix).tolist())
                if np.isfinite(value)
            ]
    return first, further


def _boxes(
    run: str,
    seed: int,
    row: MethodRow,
    parts: Sequence[Rows],
    counts: Mapping[str, int],
    names: Sequence[str],
) -> tuple[list[Score], list[Score]]:
    """Average precision of each group; the row's metric first, the others and the classes' own after it."""
    import pyarrow as pa

    from diffadapt.metrics.detection import scores as detection_scores

    found: dict[str, list[pa.Table]] = defaultdict(list)
    for rows in parts:
        groups = [_group(row, key) for key in rows.column("key")]
        known = [objects is not None for objects in rows.column("objects")]
        for group in dict.fromkeys(groups):
            mask = pa.array([g == group and k for g, k in zip(groups, known, strict=True)])
            if len(part := rows.table.filter(mask)):
                found[group].append(part)
    first, further = [], []
    for group, tables in sorted(found.items()):
        images = sum(len(t) for t in tables)
        base = row.metric.partition("_")[
            0
        ]  # map_source: map on the source's test images, whose other figures are left out
        for metric, value in detection_scores(tables, names).items():
            if not np.isfinite(value):  # no box to be found
                continue
            if metric == base:
                first.append(_score(run, seed, row, group, row.metric, value, images, counts))
            elif base == row.metric:
                further.append(_score(run, seed, row, group, metric, value, images, counts))
    return first, further


def _group(row: MethodRow, key: str) -> str:
    return row.group or "/".join(key.split("/", 2)[:2])


def _score(
    run: str,
    seed: int,
    row: MethodRow,
    group: str,
    metric: str,
    value: float,
    images: int,
    counts: Mapping[str, int],
) -> Score:
    name, _, severity = group.partition("/")
    return Score(
        run,
        row.name,
        row.control,
        group,
        name,
        int(severity) if severity.isdigit() else 0,
        metric,
        value,
        images,
        counts.get(group, images),
        seed if row.seed is None else row.seed,
        row.selection,
        row.note,
    )

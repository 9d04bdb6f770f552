"""A run's scores from what its prediction nodes stored: logits, label maps with their confusion counts, or
boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core import record
from diffadapt.core.artifact import Rows
from diffadapt.core.pipeline import MethodRow, Pipeline
from diffadapt.core.record import Score, group_of, softmax
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.metrics import known, metric
from diffadapt.metrics.collapse import Tally

SEGMENTS, BOXES = "segments", "boxes"
"""Kinds of the stages whose rows are label maps and boxes; all others that rows count store logits."""

Predictions = dict[str, dict[str, tuple[int | None, np.ndarray]]]


HELD = 2e9
"""Bytes of logits that :func:`reader` keeps for who asks again."""


def scores_of(
    run: str,
    seed: int,
    pipeline: Pipeline,
    plans: Mapping[str, NodePlan],
    store: Store,
    tallies: list[Tally] | None = None,
) -> list[Score]:
    """The scores of every row. Logits are read shard by shard: of all images only the predicted and the true
    class are held at once. ``tallies`` takes what rows of classes predicted, also where no label is known.

    The rows' own metrics come first, in the order of the rows; further figures (a class's own) after them
    all.
    """
    kinds = {m: plans[m].stage.kind for row in pipeline.rows for m in row.members}
    dense = [r for r in pipeline.rows if kinds[r.members[0]] in (SEGMENTS, BOXES)]
    plain = [r for r in pipeline.rows if r not in dense]
    counts = totals(pipeline, plans)
    answers = _streamed(plain, plans, store)
    scores = [score for a in answers for score in a.scores(run, seed, counts)]
    if tallies is not None:
        tallies += [tally for a in answers for tally in a.tallies(seed)]
    further: list[Score] = []
    for row in dense:
        (member,) = row.members
        out = _Dense(run, seed, row, counts, [], [])
        count = _segments if kinds[member] == SEGMENTS else _boxes
        count(out, _parts(plans[member], store), pipeline.class_names)
        scores += out.first
        further += out.further
    return scores + further


def reader(
    plans: Mapping[str, NodePlan], store: Store
) -> Callable[[str], dict[str, tuple[int | None, np.ndarray]]]:
    """Prediction node -> its logits by key; those asked for last are kept, up to HELD bytes."""
    found: Predictions = {}
    sizes: dict[str, float] = {}

    def load(node: str) -> dict[str, tuple[int | None, np.ndarray]]:
        if node not in found:
            made = record.predictions_by_key(_parts(plans[node], store))
            sizes[node] = float(sum(z.nbytes for _, z in made.values()))
            while found and sizes[node] + sum(sizes[n] for n in found) > HELD:
                del found[next(iter(found))]
            found[node] = made
        found[node] = found.pop(node)  # the last to go
        return found[node]

    return load


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


def score_rows(
    run: str,
    seed: int,
    rows: Sequence[MethodRow],
    predictions: Mapping[str, Mapping[str, tuple[int | None, np.ndarray]]],
    totals: Mapping[str, int],
) -> list[Score]:
    """The metric (percent) of each method row in every group, on the keys that all its members predicted.

    A method's prediction is the argmax of the sum of its members' softmax probabilities (SDA equation 5). The
    group is ``row.group``, else the key's corruption/severity; the seed ``row.seed``, else ``seed``.
    ``totals``: images of each group. Images without a label count nowhere, so unlabelled targets give no
    scores.
    """
    out: list[Score] = []
    for row in rows:
        answers = _Answers(row)
        answers.add([predictions[m] for m in row.members], predictions.get(row.images_of))
        out += answers.scores(run, seed, totals)
    return out


class _Answers:
    """What a row answered, group by group: the predicted and the true classes, -1 where no label is known."""

    def __init__(self, row: MethodRow):
        self.row = row
        self.classes = 0
        self.groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)

    def add(self, members: Sequence[Mapping[str, Any]], images: Collection[str] | None) -> None:
        """The images that all ``members`` (key -> label, logits) have, and ``images`` too where given."""
        first, others = members[0], [*members[1:], *([] if images is None else [images])]
        by_group: dict[str, list[str]] = defaultdict(list)
        for key in first:
            if all(key in m for m in others):
                by_group[group_of(self.row, key)].append(key)
        for group, names in by_group.items():
            total = np.asarray(sum(softmax(np.stack([m[k][1] for k in names])) for m in members))
            labels = [-1 if first[k][0] is None else first[k][0] for k in names]
            self.groups[group].append((total.argmax(axis=1), np.array(labels)))
            self.classes = max(self.classes, total.shape[1])

    def scores(self, run: str, seed: int, totals: Mapping[str, int]) -> list[Score]:
        row, measure, out = self.row, metric(self.row.metric).value, []
        assert measure is not None, f"no metric {row.metric}"
        for group, parts in sorted(self.groups.items()):
            predicted, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            known = labels >= 0
            if not known.any():
                continue
            value, count = 100 * measure(predicted[known], labels[known]), int(known.sum())
            out.append(Score.of(run, seed, row, group, row.metric, value, count, totals.get(group, count)))
        return out

    def tallies(self, seed: int) -> Iterator[Tally]:
        """How often each class was predicted, group by group."""
        row = self.row
        for group, parts in sorted(self.groups.items()):
            predicted, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            k = max(self.classes, int(labels.max(initial=0)) + 1)
            true = np.bincount(labels, minlength=k) if (labels >= 0).all() else None
            counts = np.bincount(predicted, minlength=k)
            yield Tally(row.name, group, seed if row.seed is None else row.seed, row.control, counts, true)


def _streamed(rows: Sequence[MethodRow], plans: Mapping[str, NodePlan], store: Store) -> list[_Answers]:
    """What the rows answered, from what lies in the store. Rows whose members have the same shards are gone
    through together, so that a shard is read once for all of them; others are read whole, one row after the
    other."""
    answers = [_Answers(row) for row in rows]
    alike: dict[tuple[Any, ...], list[_Answers]] = defaultdict(list)
    for a in answers:
        cut = {m: tuple((p.shard.key, p.shard.items) for p in plans[m].shards) for m in a.row.members}
        if len(set(cut.values())) == 1:
            alike[next(iter(cut.values()))].append(a)
            continue
        whole = {m: record.predictions_by_key(_parts(plans[m], store)) for m in a.row.members}
        a.add([whole[m] for m in a.row.members], _keys(a.row.images_of, plans, store))
        del whole
    limits = {a.row.images_of: _keys(a.row.images_of, plans, store) for a in answers}
    for together in alike.values():
        nodes = dict.fromkeys(m for a in together for m in a.row.members)
        for i in range(len(plans[next(iter(nodes))].shards)):
            parts = {m: record.predictions_by_key([store.load(plans[m].shards[i].path or "")]) for m in nodes}
            for a in together:
                a.add([parts[m] for m in a.row.members], limits[a.row.images_of])
    return answers


def _keys(node: str, plans: Mapping[str, NodePlan], store: Store) -> set[str] | None:
    """The images that a prediction node has; None for no node."""
    if not node:
        return None
    return {key for rows in _parts(plans[node], store) for key in rows.column("key")}


def _parts(plan: NodePlan, store: Store) -> Iterator[Rows]:
    return (store.load(p.path or "") for p in plan.shards)


@dataclass(frozen=True)
class _Dense:
    """Scores of one row over dense predictions: ``first`` in the row's own metric, ``further`` in others."""

    run: str
    seed: int
    row: MethodRow
    totals: Mapping[str, int]
    first: list[Score]
    further: list[Score]

    def add(self, group: str, name: str, percent: float, images: int) -> None:
        """A score, unless there was nothing to measure."""
        if np.isfinite(percent):
            total = self.totals.get(group, images)
            score = Score.of(self.run, self.seed, self.row, group, name, percent, images, total)
            (self.first if name == self.row.metric else self.further).append(score)


def _segments(out: _Dense, parts: Iterable[Rows], names: Sequence[str]) -> None:
    """The row's metric of each group's one confusion matrix, none where no pixel is labelled; on the target
    also every other metric of label maps, those of the classes that occur last."""
    own = metric(out.row.metric)
    others = [] if own.place else [m for m in known().values() if m.reads == own.reads and m is not own]
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for rows in parts:
        for key, counted in zip(rows.column("key"), rows.column("confusion"), strict=True):
            if counted is not None:
                found[group_of(out.row, key)].append(np.asarray(counted, np.int64))
    for group, matrices in sorted(found.items()):
        side = round(len(matrices[0]) ** 0.5)
        matrix = np.sum(matrices, axis=0).reshape(side, side)
        if not matrix[:-1].any():  # no pixel with a class: nothing to score
            continue
        for m in (own, *sorted(others, key=lambda m: m.by_class)):
            assert m.value is not None
            values = m.value(matrix)
            for c, value in enumerate(values.tolist() if m.by_class else [values]):
                out.add(group, m.of_class(names[c]) if m.by_class else m.name, value * 100, len(matrices))


def _boxes(out: _Dense, parts: Iterable[Rows], names: Sequence[str]) -> None:
    """Average precision of each group; on the target also its other figures and the classes' own."""
    import pyarrow as pa

    from diffadapt.metrics.detection import scores as detection_scores

    own = metric(out.row.metric)
    base = own.name.removesuffix(f"_{own.place}")
    found: dict[str, list[pa.Table]] = defaultdict(list)
    for rows in parts:
        groups = [group_of(out.row, key) for key in rows.column("key")]
        labelled = [objects is not None for objects in rows.column("objects")]
        for group in dict.fromkeys(groups):
            mask = pa.array([g == group and k for g, k in zip(groups, labelled, strict=True)])
            if len(part := rows.table.filter(mask)):
                found[group].append(part)
    for group, tables in sorted(found.items()):
        images = sum(len(t) for t in tables)
        for name, value in detection_scores(tables, names).items():
            if name == base:
                out.add(group, own.name, value, images)
            elif not own.place:
                out.add(group, name, value, images)

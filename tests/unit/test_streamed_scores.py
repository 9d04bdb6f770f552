"""Scores of many logits: read shard by shard, the same as of all at once, in the memory of a shard."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diffadapt.core import record
from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, Shard
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.stage import Stage
from diffadapt.core.store import Store
from diffadapt.run.scores import reader, score_rows, scores_of, totals
from diffadapt.stages.models import logits_rows

IMAGES, CLASSES = 40, 400


@dataclass(frozen=True)
class Logits(Stage):
    name: str = ""
    shards: int = 6
    rows: int = IMAGES

    kind = "logits"

    def plan(self, inputs: Any) -> list[Shard]:
        return [Shard(f"s{i}", {"group": f"fog/{i % 2}"}, (), self.rows) for i in range(self.shards)]


def made(folder: Any, members: int = 8, shards: int = 6) -> tuple[Pipeline, Any, Store]:
    """``members`` nodes of ``shards`` shards, and ``few``, which has every image of one shard."""
    store, names = Store(str(folder)), [f"m{i}" for i in range(members)]
    stages = {n: Logits(n, shards) for n in names} | {
        "few": Logits("few", 1),
        "halves": Logits("h", 2 * shards, IMAGES // 2),
    }
    rows = (
        *(MethodRow(n, (n,)) for n in names),
        MethodRow("all", tuple(names)),
        MethodRow("two", ("m0", "m1"), metric="class_mean"),
        MethodRow("like few", ("m0",), images_of="few"),
        MethodRow("other shards", ("m0", "halves")),
    )
    pipeline = Pipeline(tuple(Node(n, s) for n, s in stages.items()), rows, (), {"target": "m0"})
    plans = pipeline.plan(store)
    for name, plan in plans.items():
        per = plan.shards[0].shard.items
        for i, p in enumerate(plan.shards):
            first = i * per
            keys = [f"fog/{(first + j) // IMAGES % 2}/{first + j:05d}" for j in range(per)]
            labels = [None if j % 10 == 9 else (first + j) % CLASSES for j in range(per)]
            values = np.random.default_rng([len(name), i]).normal(size=(per, CLASSES)).astype(np.float32)
            for j, label in enumerate(labels):
                if label is not None and (i + j) % 3:
                    values[j, label] += 4
            store.commit(p.path or "", logits_rows(keys, labels, values, []), {})
    return pipeline, plans, store


def test_the_scores_are_those_of_all_logits_at_once(tmp_path):
    pipeline, plans, store = made(tmp_path)
    whole = {
        n: record.predictions_by_key([store.load(p.path or "") for p in plan.shards])
        for n, plan in plans.items()
    }
    wanted = score_rows("r", 3, pipeline.rows, whole, totals(pipeline, plans))
    found = scores_of("r", 3, pipeline, plans, store)
    assert found == wanted and len(found) == 2 * 11 + 1
    assert {s.method: s.images for s in found if s.group == "fog/0"}["like few"] == 36 and 20 < found[
        0
    ].value < 90


def test_the_driver_holds_a_shard_and_not_the_run(tmp_path):
    """Eight members of six shards are 3 MB of logits; one shard of each is half a megabyte."""
    pipeline, plans, store = made(tmp_path)
    rows = [r for r in pipeline.rows if r.name != "other shards"]
    pipeline = Pipeline(pipeline.nodes, tuple(rows), (), pipeline.outputs)
    scores_of("r", 0, pipeline, plans, store)  # imports
    whole = 8 * 6 * IMAGES * CLASSES * 4
    tracemalloc.start()
    try:
        scores_of("r", 0, pipeline, plans, store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * whole


def test_logits_come_as_one_array_a_shard():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = logits_rows(list("abcd"), [0, 1, None, 2], values, [])
    found = record.predictions_by_key([rows])
    assert [label for label, _ in found.values()] == [0, 1, None, 2]
    bases = {id(z.base) for _, z in found.values()}
    assert len(bases) == 1 and None not in {z.base for _, z in found.values() if z.base is None}
    np.testing.assert_array_equal(np.stack([z for _, z in found.values()]), values)
    part = Rows(rows.table.slice(1, 2))
    np.testing.assert_array_equal(record.logits_of_rows(part), values[1:3])
    assert record.logits_of_rows(Rows(rows.table.slice(0, 0))).shape == (0, 0)
    chunks = Rows(pa.concat_tables([rows.table.slice(2), rows.table.slice(0, 2)]))
    np.testing.assert_array_equal(record.logits_of_rows(chunks), values[[2, 3, 0, 1]])


@pytest.mark.parametrize("lengths", [(1, 3), (2, 0), (0, 2, 1)])
def test_rows_of_other_lengths_stay_their_own(lengths):
    values = [list(range(n)) for n in lengths]
    columns = {
        "key": list("abc")[: len(lengths)],
        "label": pa.nulls(len(lengths), pa.int64()),
        "logits": values,
    }
    table = pa.table(columns, LOGITS_SCHEMA)
    found = record.predictions_by_key([Rows(table)])
    assert [z.tolist() for _, z in found.values()] == values


def test_views_that_ask_again_are_served_from_a_bounded_memory(tmp_path, monkeypatch):
    from diffadapt.run import scores

    _, plans, store = made(tmp_path, 3)
    size, read = 6 * IMAGES * CLASSES * 4, []
    load_one = store.load
    monkeypatch.setattr(store, "load", lambda name: read.append(name) or load_one(name))
    monkeypatch.setattr(scores, "HELD", 2.5 * size)
    load = reader(plans, store)
    for node in ("m0", "m1", "m0", "m1"):
        assert len(load(node)) == 6 * IMAGES
    assert len(read) == 12
    load("m2")
    load("m1")
    assert len(read) == 18, "the one asked for last is kept"
    load("m0")
    assert len(read) == 24
